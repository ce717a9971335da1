"""An evaluator of Core ML ML Programs that shares no code with coremltools, which wrote them.

Compressed weights are written by this project; their file is read with numbers and code of the reader's own.
"""

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
