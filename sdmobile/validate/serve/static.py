"""The page, its job and the bundle as a folder for any https host; the page then offers its results as a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from sdmobile.basics.files import copy, explained
from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.basics.untrusted import inside
from sdmobile.errors import OutputError
from sdmobile.validate.serve.routes import Asset

INDEX = "index.html"


def check_folder(out: Path) -> None:
    """Checks that a folder may be written: missing, or empty.

    Raises:
        OutputError: something is there.
    """
    if os.path.lexists(out) and not _is_empty(out):
        raise OutputError("--static writes a new folder, or into an empty one", out, "Choose another place")


def write_static(out: Path, routes: Mapping[str, Asset]) -> None:
    """Writes everything that would be served; the folder is there whole or not at all.

    Args:
        out: a new or an empty folder.
        routes: what is served, by path.

    Raises:
        OutputError: the folder has something in it, or cannot be written.
        ResourceError: the disk is full.
    """
    check_folder(out)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(out) as folder:
            made = folder / "static"
            made.mkdir()
            for path, asset in routes.items():
                target = inside(made, path or INDEX)
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(asset, target)
            put_in_place(made, out, overwrite=True, replaceable=_is_empty)
    except (OSError, shutil.Error) as error:
        raise explained(error, out) from error


def _write(asset: Asset, target: Path) -> None:
    if isinstance(asset.source, bytes):
        target.write_bytes(asset.source)
    else:
        copy(asset.source, target)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())
