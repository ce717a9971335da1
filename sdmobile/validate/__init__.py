"""Checks of exported files against the float32 torch reference, on a machine without a phone.

Importing this package imports neither torch nor a runtime; the names below are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmobile.validate.bundle import Bundle, open_bundle
    from sdmobile.validate.check import validate_bundle
    from sdmobile.validate.mlprogram import MLProgram
    from sdmobile.validate.runners import Runner, TorchRunner, bundle_runner
    from sdmobile.validate.sampling import PipelineSpec, SampleRequest, sample

_HOME = {
    "Bundle": "bundle",
    "MLProgram": "mlprogram",
    "PipelineSpec": "sampling",
    "Runner": "runners",
    "SampleRequest": "sampling",
    "TorchRunner": "runners",
    "bundle_runner": "runners",
    "open_bundle": "bundle",
    "sample": "sampling",
    "validate_bundle": "check",
}

__all__ = [
    "Bundle",
    "MLProgram",
    "PipelineSpec",
    "Runner",
    "SampleRequest",
    "TorchRunner",
    "bundle_runner",
    "open_bundle",
    "sample",
    "validate_bundle",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
