"""Finds the files of a saved `.mlpackage`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sdmobile.formats.mlprogram.errors import PackageError

_WRITE_IT_AGAIN = "Export the model again"


@dataclass(frozen=True)
class Package:
    """Where a package keeps its program and the folder that weight files are named relative to."""

    path: Path
    model: Path

    def resolve(self, file_name: str) -> Path:
        """Returns the path of a weight file named `@model_path/...` in the program."""
        prefix = "@model_path/"
        relative = Path(file_name[len(prefix) :]) if file_name.startswith(prefix) else None
        if relative is None or relative.is_absolute() or ".." in relative.parts:
            raise PackageError("A weight file must be named @model_path/...", file_name, _WRITE_IT_AGAIN)
        return self.model.parent / relative


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
    try:
        manifest = json.loads((path / "Manifest.json").read_text(encoding="utf-8"))
        relative = Path(manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"])
    except FileNotFoundError as error:
        raise PackageError("An ML package must contain Manifest.json", path, _WRITE_IT_AGAIN) from error
    except (ValueError, KeyError, TypeError) as error:
        raise PackageError(
            "Manifest.json must name the root model of the package", f"{path}: {error!r}", _WRITE_IT_AGAIN
        ) from error
    if relative.is_absolute() or ".." in relative.parts:
        raise PackageError("Files of a package must lie inside it", relative, _WRITE_IT_AGAIN)
    model = path / "Data" / relative
    if not model.is_file():
        raise PackageError("The model that Manifest.json names must exist", model, _WRITE_IT_AGAIN)
    return Package(path, model)
