"""An evaluator of Core ML ML Programs that shares no code with the converter that wrote them."""

from __future__ import annotations

from sdmobile.validate.mlprogram.errors import InputError, PackageError, UnsupportedOpError
from sdmobile.validate.mlprogram.precision import Precision
from sdmobile.validate.mlprogram.program import MLProgram, function_names, read_program

__all__ = [
    "InputError",
    "MLProgram",
    "PackageError",
    "Precision",
    "UnsupportedOpError",
    "function_names",
    "read_program",
]
