"""Finds the files of a saved `.mlpackage`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdmobile.basics.untrusted import UntrustedError, check_tree, inside, parse_json, read_bounded
from sdmobile.formats.mlprogram.errors import PackageError

_WRITE_IT_AGAIN = "Export the model again"
_MAX_MANIFEST = 1 << 20
_MAX_PROGRAM = 1 << 28
"""Bytes of a model file; what is larger belongs into the weight file, and a protobuf ends at 2 GiB anyway."""


@dataclass(frozen=True)
class Package:
    """Where a package keeps its program and the folder that weight files are named relative to."""

    path: Path
    model: Path

    def resolve(self, file_name: str) -> Path:
        """Returns the path of a weight file named `@model_path/...` in the program, which must lie in the package."""
        prefix = "@model_path/"
        try:
            if not file_name.startswith(prefix):
                raise UntrustedError(f"{file_name[:80]!a} does not begin so")
            return inside(self.model.parent, file_name[len(prefix) :])
        except UntrustedError as error:
            raise PackageError("A weight file must be named @model_path/...", error, _WRITE_IT_AGAIN) from error

    def program(self) -> bytes:
        """Returns the bytes of the program.

        Raises:
            PackageError: the file is too large to be one.
        """
        try:
            return read_bounded(self.model, _MAX_PROGRAM)
        except UntrustedError as error:
            raise PackageError("The program of a package must be a file", f"{self.model}: {error}") from error


def open_package(path: Path) -> Package:
    """Finds the program of a package through its manifest.

    Args:
        path: the `.mlpackage` folder.

    Returns:
        The paths of the package.

    Raises:
        PackageError: a file is missing or the manifest is not that of a package.
    """
    if not path.is_dir():
        raise PackageError("An ML package is a folder", path, "Give the path of an existing .mlpackage")
    item = _root_item(path)
    try:
        check_tree(path)
        model = inside(path / "Data", item)
    except UntrustedError as error:
        raise PackageError("Files of a package must lie inside it, without links", error, _WRITE_IT_AGAIN) from error
    if not model.is_file():
        raise PackageError("The model that Manifest.json names must exist", model, _WRITE_IT_AGAIN)
    return Package(path, model)


def _root_item(path: Path) -> str:
    """Returns where the list of items says that the root model lies, in `Data`."""
    try:
        manifest = parse_json(read_bounded(path / "Manifest.json", _MAX_MANIFEST))
        item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        if not isinstance(item, str):
            raise UntrustedError(f"a path that is {type(item).__name__}")
    except FileNotFoundError as error:
        raise PackageError("An ML package must contain Manifest.json", path, _WRITE_IT_AGAIN) from error
    except (ValueError, KeyError, TypeError) as error:
        raise PackageError(
            "Manifest.json must name the root model of the package", f"{path}: {error!r:.200}", _WRITE_IT_AGAIN
        ) from error
    return item
