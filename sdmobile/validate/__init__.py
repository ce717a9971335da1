"""Checks of exported files against the float32 torch reference, on a machine without a phone.

Importing this package imports neither torch nor a runtime; the names below are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle, open_bundle
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.sampling import SampleRequest, sample
    from sdmobile.reference.torch_runner import TorchRunner
    from sdmobile.runtimes import Runner, bundle_runner
    from sdmobile.runtimes.mlprogram import MLProgram
    from sdmobile.validate.check import validate_bundle

_HOME = {
    "Bundle": "sdmobile.formats.bundle.reading",
    "MLProgram": "sdmobile.runtimes.mlprogram",
    "PipelineSpec": "sdmobile.reference.sampling",
    "Runner": "sdmobile.runtimes",
    "SampleRequest": "sdmobile.reference.sampling",
    "TorchRunner": "sdmobile.reference.torch_runner",
    "bundle_runner": "sdmobile.runtimes",
    "open_bundle": "sdmobile.formats.bundle.reading",
    "sample": "sdmobile.reference.sampling",
    "validate_bundle": "sdmobile.validate.check",
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
    return getattr(import_module(_HOME[name]), name)
