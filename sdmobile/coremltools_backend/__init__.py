"""Importing this makes `coremltools.models.MLModel(...).predict` work on Linux, through the evaluator.

    import coremltools as ct
    import sdmobile.coremltools_backend

    model = ct.models.MLModel("Model.mlpackage")
    model.predict({"x": x})

On a Mac nothing is changed: Core ML itself runs there. `install(precision=...)` chooses one precision for all compute
units; `remove()` takes the stand-in away again.
"""

from __future__ import annotations

import sys

from sdmobile.coremltools_backend.stand_in import install, remove

__all__ = ["install", "remove"]

if sys.platform != "darwin":
    install()
