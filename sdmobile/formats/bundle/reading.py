"""Read a bundle folder and check that it is whole before anything trusts it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sdmobile.basics.files import hash_file
from sdmobile.errors import EXIT_CHECKPOINT, SdmobileError
from sdmobile.formats.bundle.contracts import TARGETS, Contract, Geometry

SCHEMA_VERSION = 1
KIND = "sdmobile-bundle"
MANIFEST = "manifest.json"
_REQUIRED = ("target", "source", "geometry", "guidance", "pipeline", "components", "files")


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
        record: what the export noted down: stages, rewrites, sizes.
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
        manifest: the whole manifest as read.
    """

    path: Path
    target: str
    guidance: str
    geometry: Geometry
    components: dict[str, BundleComponent]
    source: dict[str, Any]
    pipeline: dict[str, Any]
    manifest: dict[str, Any]

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
        return str(self.path / device) if str(device).endswith(".toml") else str(device)

    @property
    def source_hash(self) -> str:
        """Content hash of the checkpoint that the bundle was exported from."""
        return str(self.source.get("content_hash", ""))


def is_bundle(path: Path) -> bool:
    """Whether the folder has a bundle's manifest, whatever its state; no checkpoint has one."""
    return (path / MANIFEST).is_file()


def open_bundle(path: Path, verify: bool = True) -> Bundle:
    """Reads a bundle and checks it.

    Args:
        path: the bundle's folder.
        verify: compare the size and SHA-256 of every listed file with the manifest.

    Raises:
        BundleError: not a bundle, another schema version, a file missing or changed.
    """
    manifest = _read_manifest(path)
    _check_files(path, manifest["files"], verify)
    try:
        geometry = Geometry.from_json(manifest["geometry"])
        components = {name: _component(path, name, record) for name, record in manifest["components"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{MANIFEST} must describe geometry and components as sdmobile writes them",
            f"{type(error).__name__}: {error}",
            "Export the bundle again.",
        ) from error
    if not components:
        raise BundleError("a bundle holds at least one exported component", path, "Export the bundle again.")
    return Bundle(
        path=path,
        target=manifest["target"],
        guidance=manifest["guidance"],
        geometry=geometry,
        components=components,
        source=manifest["source"],
        pipeline=manifest["pipeline"],
        manifest=manifest,
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise BundleError("a bundle is a folder", path, "Give the folder that `sdmobile export` wrote.")
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(
            f"a bundle folder holds {MANIFEST}", path, "Give the folder that `sdmobile export` wrote, or export again."
        )
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise BundleError(f"{MANIFEST} must be JSON", error, "Export the bundle again.") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise BundleError(f"{MANIFEST} must be of the kind {KIND}", file, "Give a folder that `sdmobile export` wrote.")
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        fix = "Update sdmobile." if newer else "Export the bundle again."
        raise BundleError(f"this version of sdmobile reads bundles of schema version {SCHEMA_VERSION}", version, fix)
    missing = [key for key in _REQUIRED if key not in manifest]
    if missing:
        raise BundleError(f"{MANIFEST} must have the fields {', '.join(_REQUIRED)}", f"missing: {missing}")
    if manifest["target"] not in TARGETS:
        raise BundleError(f"the target is one of {', '.join(TARGETS)}", manifest["target"], "Export the bundle again.")
    return manifest


def _check_files(root: Path, files: dict[str, dict[str, Any]], verify: bool) -> None:
    for relative, expected in files.items():
        file = _inside(root, relative)
        if not file.is_file():
            raise BundleError("every file that the manifest lists must exist", relative, "Export the bundle again.")
        if not verify:
            continue
        size = file.stat().st_size
        if size != expected["bytes"] or hash_file(file) != expected["sha256"]:
            raise BundleError(
                "every file must have the size and SHA-256 that the manifest lists",
                f"{relative} was changed or damaged after the export",
                "Export the bundle again, or copy it again from where it was whole.",
            )


def _inside(root: Path, relative: str) -> Path:
    """Resolves a path of the manifest; one that leaves the bundle is refused."""
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or "\\" in relative:
        raise BundleError("a manifest lists paths inside the bundle only", relative, "Do not use this bundle.")
    return root.joinpath(*parts.parts)


def _component(root: Path, name: str, record: dict[str, Any]) -> BundleComponent:
    contracts = [Contract.from_json(part) for part in record.get("chain", [])]
    chain = tuple(BundleComponent(name, _file(root, name, c.file_name), c, record) for c in contracts)
    path = _file(root, name, record["file"])
    return BundleComponent(name, path, Contract.from_json(record["contract"]), record, chain)


def _file(root: Path, name: str, relative: str) -> Path:
    """Returns a component's file, which must exist."""
    path = _inside(root, relative)
    if not path.exists():
        raise BundleError(f"the bundle must hold the file of its {name}", relative, "Export the bundle again.")
    return path
