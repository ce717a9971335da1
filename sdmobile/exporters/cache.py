"""Finished components, kept under a key of everything that decides their content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.exporters.lowering import hash_of

if TYPE_CHECKING:
    from sdmobile.exporters.request import ExportPlan
    from sdmobile.quantize.recipes import Recipe

_LIBRARIES = ("torch", "diffusers", "transformers", "coremltools", "litert-torch", "ai-edge-quantizer", "onnx")
_RECORD = "record.json"
_ROOMS = ("checkpoints", "exporters", "quantize", "rewrites", "device_profiles")


def default_cache_dir() -> Path:
    """Returns where finished components are kept: `$SDMOBILE_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("SDMOBILE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdmobile" / "components"


@lru_cache(maxsize=1)
def _code_hash() -> str:
    """Returns one hash of the package's own code that decides what is written."""
    import sdmobile

    root = Path(sdmobile.__file__).parent
    digest = hashlib.sha256()
    for room in _ROOMS:
        for file in sorted((root / room).rglob("*")):
            if file.suffix in (".py", ".toml"):
                digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Returns the installed versions of the libraries that decide what is written."""
    versions: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def component_key(plan: ExportPlan, component: str) -> str:
    """Returns the SHA-256 over source hash, component, target, device, rewrites, shapes, code and library versions."""
    from sdmobile.device_profiles import profile_hash

    facts = {
        "source": plan.checkpoint.content_hash,
        "name": plan.checkpoint.name,
        "component": component,
        "target": plan.request.target,
        "device": plan.device,
        "profile": profile_hash(plan.device),
        "rewrites": plan.request.rewrites.to_json(),
        "float32_islands": plan.request.float32_islands,
        "chunks": plan.request.chunks if component == "unet" else 1,
        "guidance": plan.request.guidance if component == "unet" else None,
        "geometry": plan.geometry.to_json() | ({} if component == "unet" else {"batch": 0}),
        "code": _code_hash(),
        "libraries": library_versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def compressed_key(key: str, recipe: Recipe) -> str:
    """Returns the key of a component that a recipe was applied to; `key` is that of the uncompressed one."""
    return hashlib.sha256(json.dumps([key, recipe.name, recipe.key]).encode()).hexdigest()


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


def link_or_copy(source: Path, target: Path) -> None:
    """Puts a file or folder elsewhere, by hard links where possible; finished files are never written again."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(str(source), str(target))


def _link_file(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
