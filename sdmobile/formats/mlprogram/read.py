"""Reads the program of a saved package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdmobile.formats.errors import whole
from sdmobile.formats.mlprogram import ir, wire
from sdmobile.formats.mlprogram.chain import Pipeline, build_pipeline
from sdmobile.formats.mlprogram.package import Package, open_package
from sdmobile.formats.mlprogram.schema import MESSAGES


def read_program(path: Path | str, function: str | None = None) -> tuple[Package, ir.Function]:
    """Reads one function of a package without its weights and without torch.

    Args:
        path: the `.mlpackage` folder.
        function: its name, if the package holds several; by default the one that the package names as default.

    Returns:
        Where the files are, and the function.

    Raises:
        PackageError: a file is missing or corrupt.
        InputError: there is no function of this name.
        UnsupportedError: the model is not an ML Program of arrays.
    """
    package = open_package(Path(path))
    with whole(package.path):
        return package, ir.build(_read_model(package), function)


def read_model(path: Path | str, function: str | None = None) -> tuple[Package, ir.Function | Pipeline]:
    """Reads what `read_program` reads, or a pipeline of ML Programs.

    Raises:
        UnsupportedError: a part of a pipeline is not an ML Program.
        PackageError, InputError: as `read_program`.
    """
    package = open_package(Path(path))
    with whole(package.path):
        model = _read_model(package)
        return package, build_pipeline(model) or ir.build(model, function)


def function_names(path: Path | str) -> tuple[str, ...]:
    """Returns the names of the functions of a package, the default one first; raises as `read_program`."""
    package = open_package(Path(path))
    with whole(package.path):
        return ir.function_names(_read_model(package))


def _read_model(package: Package) -> dict[str, Any]:
    return wire.decode(memoryview(package.program()), "Model", MESSAGES)
