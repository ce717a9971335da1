"""Finished components, kept under a key of everything that decides their content."""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import hash_json, hash_of, link_or_copy
from sdmobile.basics.fingerprint import code_hash, library_closure
from sdmobile.basics.libraries import LIBRARIES

if TYPE_CHECKING:
    from sdmobile.exporters.request import ExportPlan
    from sdmobile.quantize.recipes import Recipe

_DECIDING_LIBRARIES = (*LIBRARIES, "ai-edge-litert", "onnxscript", "onnxruntime", "safetensors", "numpy", "scipy")
_RECORD = "record.json"


def default_cache_dir() -> Path:
    """Returns where finished components are kept: `$SDMOBILE_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("SDMOBILE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdmobile" / "components"


def component_key(plan: ExportPlan, component: str) -> str:
    """Returns the SHA-256 over all that decides a component's files and record.

    These are the checkpoint's content, component, target, the deciding part of the device's profile, rewrites, shapes,
    the package's code and the libraries.
    """
    from sdmobile.device_profiles import load_profile, profile_hash

    request, denoiser = plan.request, plan.checkpoint.family.denoiser.name
    # Guidance decides what a denoiser takes, and which calls a short sampling run records for any component.
    guided = component == denoiser or request.float32_islands or request.rewrites.check
    facts = {
        "source": plan.checkpoint.content_hash,
        "name": plan.checkpoint.name,
        "component": component,
        "target": request.target,
        "profile": profile_hash(plan.device),
        "runtime": load_profile(plan.device).runtime,  # decides what is warned of
        "rewrites": request.rewrites.to_json(),
        "float32_islands": request.float32_islands,
        "chunks": request.chunks if component == denoiser else 1,
        "guidance": plan.guidance if guided else None,
        "geometry": plan.geometry.to_json() | ({} if guided else {"batch": 0}),
        "code": code_hash(),
        "libraries": library_closure(_DECIDING_LIBRARIES),
        "python": platform.python_version(),
    }
    return hash_json(facts)


def compressed_key(key: str, recipe: Recipe, guidance: str) -> str:
    """Returns the key of a component that a recipe was applied to.

    Args:
        key: that of the uncompressed one.
        recipe: what each weight became.
        guidance: of the sampling runs that a recipe with activations is calibrated on.
    """
    return hash_json([key, recipe.name, recipe.key, guidance])


@dataclass(frozen=True)
class ComponentCache:
    """A folder with one sub-folder per key: the component's files and its record.

    Args:
        root: the folder; None switches the cache off.
    """

    root: Path | None

    def find(self, key: str) -> tuple[Path, dict[str, Any]] | None:
        """Returns folder and record of a finished component, or None if it is missing or was damaged."""
        if self.root is None:
            return None
        folder = self.root / key
        try:
            record = json.loads((folder / _RECORD).read_text("utf-8"))
            whole = hash_of([folder / name for name in record["files"]]) == record["sha256"]
        except (OSError, ValueError, KeyError):
            return None
        return (folder, record) if whole else None

    def store(self, key: str, folder: Path, record: dict[str, Any]) -> None:
        """Keeps a finished component; hard links where the file system has them, so it costs no space."""
        if self.root is None:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        part = self.root / f".{key}.{os.getpid()}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name in record["files"]:
            link_or_copy(folder / name, part / name)
        (part / _RECORD).write_text(json.dumps(record), "utf-8")
        shutil.rmtree(self.root / key, ignore_errors=True)
        part.rename(self.root / key)
