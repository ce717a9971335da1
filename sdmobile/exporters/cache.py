"""Finished components, kept under a key of everything that decides their content."""

from __future__ import annotations

import json
import logging
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import cache_folder, copy, explained, hash_json, hash_of, is_disk_full, size_of
from sdmobile.basics.fingerprint import code_hash, library_closure
from sdmobile.basics.libraries import LIBRARIES
from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.errors import OutputError
from sdmobile.families.component import Role
from sdmobile.families.control import controls_to_json

if TYPE_CHECKING:
    from sdmobile.exporters.request import ExportPlan
    from sdmobile.quantize.recipes import Recipe

_DECIDING_LIBRARIES = (*LIBRARIES, "ai-edge-litert", "onnxscript", "onnxruntime", "safetensors", "numpy", "scipy")
_RECORD = "record.json"
_log = logging.getLogger("sdmobile.cache")


def default_cache_dir() -> Path:
    """Returns where finished components are kept."""
    return cache_folder("components")


def component_key(plan: ExportPlan, component: str) -> str:
    """Returns the SHA-256 over all that decides a component's files and record.

    These are the checkpoint's content, component, target, the deciding part of the device's profile, rewrites, shapes,
    the package's code and the libraries.
    """
    from sdmobile.device_profiles import load_profile, profile_hash

    request, family = plan.request, plan.checkpoint.family
    denoiser = family.denoiser.name
    # Guidance decides what is called in every step, and which calls a short sampling run records for any component.
    in_step = component in (denoiser, *(part.name for part in family.of_role(Role.CONTROL)))
    guided = in_step or request.float32_islands or request.rewrites.check
    facts = {
        "source": plan.checkpoint.content_hash,
        "name": plan.checkpoint.name,
        "prediction_type": plan.checkpoint.prediction_type,
        "component": component,
        "control": controls_to_json(family.controls),
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

    Many processes may use it at once: an entry appears whole, and what is taken from it is a copy, checked after it
    was made. It saves time and decides nothing: what goes wrong with it is a note, and the component is exported.

    Args:
        root: the folder; None switches the cache off.
    """

    root: Path | None

    def has(self, key: str) -> bool:
        """Whether a component seems to be there; `take` may still find it damaged, or gone."""
        return self.root is not None and _record_of(self.root / key) is not None

    def take(self, key: str, folder: Path) -> dict[str, Any] | None:
        """Copies a finished component into an empty folder.

        Args:
            key: of `component_key` or `compressed_key`.
            folder: where its files shall lie; it stays empty if there is none.

        Returns:
            The component's record, or None if it is missing or damaged.

        Raises:
            ResourceError: there is no room for the copy.
        """
        entry = None if self.root is None else self.root / key
        record = None if entry is None else _record_of(entry)
        if entry is None or record is None:
            return None
        copies = [folder / name for name in record["files"]]
        try:
            for copied in copies:
                copy(entry / copied.name, copied)
            if size_of(copies) == record["bytes"] and hash_of(copies) == record["sha256"]:
                return record
            _log.warning("note: %s in the cache is damaged and was not used", entry)
        except OSError as error:
            if is_disk_full(error):
                raise explained(error, folder) from error
        for copied in copies:
            shutil.rmtree(copied) if copied.is_dir() else copied.unlink(missing_ok=True)
        return None

    def store(self, key: str, folder: Path, record: dict[str, Any]) -> None:
        """Keeps a copy of a finished component; where that fails, a note says so and nothing else happens."""
        if self.root is None:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with scratch_beside(self.root / key) as scratch:
                entry = scratch / "entry"
                entry.mkdir()
                for name in record["files"]:
                    copy(folder / name, entry / name)
                (entry / _RECORD).write_text(json.dumps(record), "utf-8")
                put_in_place(entry, self.root / key, overwrite=True)
        except (OSError, OutputError) as error:
            _log.warning("note: %s was not kept in the cache: %s", record.get("component", "a component"), error)


def _record_of(entry: Path) -> dict[str, Any] | None:
    """Returns the record of an entry if it reads as one and names files of the entry alone."""
    try:
        record = json.loads((entry / _RECORD).read_text("utf-8"))
        names, known = record["files"], (record["bytes"], record["sha256"])
        plain = all(isinstance(name, str) and name not in ("", "..") and Path(name).name == name for name in names)
        return record if plain and isinstance(names, list) and (int, str) == tuple(map(type, known)) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
