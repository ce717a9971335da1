"""The one place where coremltools is changed: what it would load of Core ML is replaced, and so is what it asks.

coremltools 9 reaches Core ML through the class `_MLModelProxy` of its native module `libcoremlpython`, which only a Mac
has, and asks `_is_macos()` and `_macos_version()` before it calls for states or compiled models. All else of it is
Python and stays in use.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from sdmobile.coremltools_backend.proxy import ModelProxy
from sdmobile.runtimes.mlprogram.precision import Precision, rounding

MACOS_VERSION = (26, 0)
"""What coremltools is told: the version whose Core ML has everything that coremltools 9 writes."""

_LIBRARY = "coremltools.libcoremlpython"
_NOT_THERE = (
    "_MLModelAssetProxy",
    "_MLComputePlanProxy",
    "_MLCPUComputeDeviceProxy",
    "_MLGPUComputeDeviceProxy",
    "_MLNeuralEngineComputeDeviceProxy",
)
"""Classes of the native module without a stand-in; coremltools itself puts None where it cannot load one."""
_ASKING = ("model", "_compiled_model", "compute_device", "compute_plan", "utils")
"""Modules of `coremltools.models` that hold a proxy or one of both questions, under these names."""

_replaced: list[tuple[Any, str, Any]] = []


def install(precision: Precision | None = None, tests: bool = False) -> None:
    """Puts the evaluator in the place of Core ML, for models that are opened from now on.

    Args:
        precision: for all compute units; by default each has its own (`proxy.precision_of`).
        tests: also set the flag by which coremltools' own tests decide whether to predict. To be set before these are
            imported, since they keep a copy.

    Raises:
        InputError: there is no such precision.
    """
    if precision is not None:
        rounding(precision)
    remove()
    importlib.import_module("coremltools")  # without the library, so that what is replaced is what is there on Linux
    proxy = type("_MLModelProxy", (ModelProxy,), {"precision": precision})
    library = ModuleType(_LIBRARY)
    vars(library).update(dict.fromkeys(_NOT_THERE), _MLModelProxy=proxy)
    sys.modules[_LIBRARY] = library
    answers = {"_MLModelProxy": proxy, "_is_macos": lambda: True, "_macos_version": lambda: MACOS_VERSION}
    for name in _ASKING:
        module = importlib.import_module(f"coremltools.models.{name}")
        for attribute in answers.keys() & vars(module).keys():
            _replace(module, attribute, answers[attribute])
    if tests:
        _replace(importlib.import_module("coremltools._deps"), "_IS_MACOS", True)


def remove() -> None:
    """Undoes `install`; models that are open keep the evaluator."""
    while _replaced:
        module, name, value = _replaced.pop()
        setattr(module, name, value)
    if isinstance(sys.modules.get(_LIBRARY), ModuleType) and sys.platform != "darwin":
        del sys.modules[_LIBRARY]


def _replace(module: ModuleType, name: str, value: Any) -> None:
    _replaced.append((module, name, getattr(module, name)))
    setattr(module, name, value)
