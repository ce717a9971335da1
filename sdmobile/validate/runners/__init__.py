"""Who computes a component: torch, a runtime, or the project's own evaluator, all in canonical arrays."""

from __future__ import annotations

from sdmobile.validate.runners.base import FileRunner, Runner
from sdmobile.validate.runners.choice import RUNTIMES, bundle_runner, default_runtime, validation_runtimes
from sdmobile.validate.runners.reference import TorchRunner

__all__ = [
    "RUNTIMES",
    "FileRunner",
    "Runner",
    "TorchRunner",
    "bundle_runner",
    "default_runtime",
    "validation_runtimes",
]
