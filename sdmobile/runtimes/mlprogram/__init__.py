"""An evaluator of Core ML ML Programs that shares no code with the converter that wrote them."""

from __future__ import annotations

from sdmobile.formats.mlprogram.errors import InputError, PackageError, UnsupportedOpError
from sdmobile.formats.mlprogram.read import function_names, read_program
from sdmobile.runtimes.mlprogram.precision import Precision
from sdmobile.runtimes.mlprogram.program import MLProgram

__all__ = [
    "InputError",
    "MLProgram",
    "PackageError",
    "Precision",
    "UnsupportedOpError",
    "function_names",
    "read_program",
]
