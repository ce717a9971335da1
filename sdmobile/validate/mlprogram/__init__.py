"""An evaluator of Core ML ML Programs that shares no code with the converter that wrote them."""

from __future__ import annotations

from sdmobile.validate.mlprogram.errors import InputError, PackageError, UnsupportedOpError
from sdmobile.validate.mlprogram.program import MLProgram, read_program

__all__ = ["InputError", "MLProgram", "PackageError", "UnsupportedOpError", "read_program"]
