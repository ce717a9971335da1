"""Opens a bundle: the one place where a manifest is read, and where its names become paths.

A bundle may come from anybody. Its manifest is held to a schema (`manifest.py`), the folder to regular files without
links, and what the rest of the program gets are checked paths; nothing else joins a manifest's text to a folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import files_of, hash_file
from sdmobile.basics.scratch import recover
from sdmobile.basics.untrusted import UntrustedError, check_plain, check_tree, inside, parse_json, read_bounded
from sdmobile.errors import EXIT_CHECKPOINT, SdmobileError
from sdmobile.formats.bundle.contracts import TARGETS, Contract, Geometry

if TYPE_CHECKING:
    from sdmobile.formats.bundle.manifest import ComponentEntry, ManifestEntry

SCHEMA_VERSION = 1
KIND = "sdmobile-bundle"
MANIFEST = "manifest.json"
_REQUIRED = ("target", "source", "geometry", "guidance", "pipeline", "components", "files")
_MAX_MANIFEST = 1 << 25
_MAX_SMALL_FILE = 1 << 26
"""Bytes of a file that belongs to no component: tokenizer, tables, device profile."""
_TOKENIZER = ("tokenizer", "vocab.json", "merges.txt")
_AGAIN = "Export the bundle again."


class BundleError(SdmobileError):
    """A bundle folder is missing, incomplete, changed since its export or of another version."""

    exit_code = EXIT_CHECKPOINT


@dataclass(frozen=True)
class BundleComponent:
    """One exported file.

    Args:
        name: canonical component name.
        path: the file, or the folder of a Core ML package.
        contract: what the file takes and returns.
        record: what the export noted down: stages, rewrites, sizes; entries of an older manifest are filled in.
        chain: the files that compute it one after the other, where it was cut into parts; else empty.
    """

    name: str
    path: Path
    contract: Contract
    record: dict[str, Any]
    chain: tuple[BundleComponent, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest has been read and whose files exist.

    Args:
        path: the folder.
        target: "ios", "android" or "onnx".
        guidance: "batch2" (both guidance rows in one UNet call) or "separate".
        geometry: the sizes that fix every shape.
        components: exported files by canonical name, in pipeline order.
        source: name, content hash and licence of the checkpoint.
        pipeline: scaling factor and scheduler configuration.
        manifest: the whole manifest as read; its names are no paths.
        files: every listed file by its name in the manifest.
    """

    path: Path
    target: str
    guidance: str
    geometry: Geometry
    components: dict[str, BundleComponent]
    source: dict[str, Any]
    pipeline: dict[str, Any]
    manifest: dict[str, Any]
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def tokenizer_dir(self) -> Path:
        """The folder that holds vocab.json and merges.txt."""
        nested = self.path / "tokenizer"
        return nested if nested.is_dir() else self.path

    @property
    def device(self) -> str | None:
        """The device that the bundle was made for, if one was named; a user's profile is a file of the bundle."""
        device = self.manifest.get("device")
        if device is None:
            return None
        return str(self.files[device]) if str(device).endswith(".toml") else str(device)

    @property
    def source_hash(self) -> str:
        """Content hash of the checkpoint that the bundle was exported from."""
        return str(self.source.get("content_hash", ""))

    @property
    def sha256(self) -> str:
        """One SHA-256 of all listed files: what recorded calls and runs on phones name their bundle by."""
        from sdmobile.formats.bundle.file_list import bundle_hash

        return bundle_hash(self.manifest.get("files", {}))


def is_bundle(path: Path) -> bool:
    """Whether the folder has a bundle's manifest, whatever its state; no checkpoint has one."""
    return os.path.lexists(path / MANIFEST)


def open_bundle(path: Path, verify: bool = True) -> Bundle:
    """Reads a bundle and checks it; one that a killed run had moved aside is put back first.

    Args:
        path: the bundle's folder.
        verify: compare the size and SHA-256 of every listed file with the manifest.

    Raises:
        BundleError: not a bundle, another schema version, an entry that is not as sdmobile writes it, a path that
            leaves the bundle, a link or special file in it, a file missing, changed or not listed.
    """
    recover(path)
    manifest = _read_manifest(path)
    entry = _checked(manifest)
    try:
        check_tree(path)
        files = _listed(path, entry, verify)
        components = {
            name: _component(path, name, record, manifest["components"][name])
            for name, record in entry.components.items()
        }
    except UntrustedError as error:
        raise BundleError(
            "a bundle holds folders and regular files only",
            error,
            "Do not use this bundle; if you linked files yourself, copy them (`cp -rL`).",
        ) from error
    models = [file for record in components.values() for file in record.record["files"]]
    _require_listed(path, [top for top in (*models, *_TOKENIZER) if (path / top).exists()], files.values())
    return Bundle(
        path=path,
        target=entry.target,
        guidance=entry.guidance,
        geometry=Geometry.from_json(manifest["geometry"]),
        components=components,
        source=manifest["source"],
        pipeline=manifest["pipeline"],
        manifest=manifest,
        files=files,
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    """Returns a manifest of the version that this program reads, its entries not yet checked."""
    if not path.is_dir():
        raise BundleError("a bundle is a folder", path, "Give the folder that `sdmobile export` wrote.")
    file = path / MANIFEST
    if not os.path.lexists(file):
        raise BundleError(
            f"a bundle folder holds {MANIFEST}", path, "Give the folder that `sdmobile export` wrote, or export again."
        )
    try:
        manifest = parse_json(read_bounded(inside(path, MANIFEST), _MAX_MANIFEST), finite=False)
        check_plain(_without_clipping(manifest))
    except UntrustedError as error:
        raise BundleError(f"{MANIFEST} must be a regular file of plain JSON", f"{file}: {error}", _AGAIN) from error
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise BundleError(f"{MANIFEST} must be of the kind {KIND}", file, "Give a folder that `sdmobile export` wrote.")
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        fix = "Update sdmobile." if newer else _AGAIN
        raise BundleError(f"this version of sdmobile reads bundles of schema version {SCHEMA_VERSION}", version, fix)
    missing = [key for key in _REQUIRED if key not in manifest]
    if missing:
        raise BundleError(f"{MANIFEST} must have the fields {', '.join(_REQUIRED)}", f"missing: {missing}", _AGAIN)
    if manifest["target"] not in TARGETS:
        raise BundleError(f"the target is one of {', '.join(TARGETS)}", f"{manifest['target']!a:.80}", _AGAIN)
    if manifest["components"] == {}:
        raise BundleError("a bundle holds at least one exported component", path, _AGAIN)
    return manifest


def _without_clipping(manifest: Any) -> Any:
    """Returns the manifest without the one number of earlier ones that is not finite: a scheduler's "clip nothing"."""
    try:
        scheduler = dict(manifest["pipeline"]["scheduler"])
        if scheduler.get("lambda_min_clipped") == float("-inf"):
            del scheduler["lambda_min_clipped"]
        return {**manifest, "pipeline": {**manifest["pipeline"], "scheduler": scheduler}}
    except (KeyError, TypeError, ValueError):
        return manifest


def _checked(manifest: dict[str, Any]) -> ManifestEntry:
    """Returns the manifest by its schema."""
    from pydantic import ValidationError

    from sdmobile.formats.bundle.manifest import ManifestEntry

    try:
        return ManifestEntry.model_validate(manifest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]") or "the manifest"
        value = first["input"]
        shown = f"an object or list of {len(value)}" if isinstance(value, dict | list) else f"{value!a:.80}"
        more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        unknown = first["type"] == "extra_forbidden"
        raise BundleError(
            f"{MANIFEST} must have the entries that sdmobile writes, with values in their bounds",
            f"{place[:200]}: {first['msg'].removeprefix('Value error, ')} (found {shown}){more}",
            "Update sdmobile, or export the bundle again." if unknown else _AGAIN,
        ) from None


def _component(root: Path, name: str, entry: ComponentEntry, record: dict[str, Any]) -> BundleComponent:
    paths = {file: _model_path(root, name, file) for file in entry.named_files}
    filled = {"component": name, "chain": [], "warnings": [], **record, "files": entry.named_files}
    chain = tuple(
        BundleComponent(name, paths[part["file_name"]], Contract.from_json(part), filled) for part in filled["chain"]
    )
    return BundleComponent(name, paths[entry.file], Contract.from_json(record["contract"]), filled, chain)


def _model_path(root: Path, component: str, file: str) -> Path:
    """Returns the path of a component's file, which must exist: a folder for Core ML, else a file."""
    path = inside(root, file)
    if not (path.is_dir() if path.suffix == ".mlpackage" else path.is_file()):
        raise BundleError(f"the bundle must hold the file of its {component}", file, _AGAIN)
    return path


def _listed(root: Path, entry: ManifestEntry, verify: bool) -> dict[str, Path]:
    """Returns the paths of the listed files, which must exist and be what the manifest says."""
    models = {file for component in entry.components.values() for file in component.named_files}
    files: dict[str, Path] = {}
    for name, expected in entry.files.items():
        files[name] = file = inside(root, name)
        if not file.is_file():
            raise BundleError("every file that the manifest lists must exist", name, _AGAIN)
        size = file.stat().st_size
        if size > _MAX_SMALL_FILE and name.split("/")[0] not in models:
            raise BundleError(
                f"a file beside the models has at most {_MAX_SMALL_FILE} bytes", f"{name}: {size}", _AGAIN
            )
        if verify and (size != expected.bytes or hash_file(file) != expected.sha256):
            raise BundleError(
                "every file must have the size and SHA-256 that the manifest lists",
                f"{name} was changed or damaged after the export",
                "Export the bundle again, or copy it again from where it was whole.",
            )
    return files


def _require_listed(root: Path, tops: Iterable[str], files: Iterable[Path]) -> None:
    """Checks that everything that is read of a bundle is listed, so that its hash vouches for it."""
    known = set(files)
    for file in (file for top in tops for file in files_of(root / top)):
        if file not in known:
            name = file.relative_to(root).as_posix()
            raise BundleError(
                "the manifest must list every model and tokenizer file",
                f"{name} is not listed",
                "Remove it, or export again.",
            )
