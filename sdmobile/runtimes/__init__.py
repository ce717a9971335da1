"""Who computes a component's file: a runtime, or the project's own evaluator, all in canonical arrays."""

from __future__ import annotations

from sdmobile.runtimes.base import FileRunner, Runner
from sdmobile.runtimes.choice import RUNTIMES, bundle_runner, default_runtime, validation_runtimes

__all__ = [
    "RUNTIMES",
    "FileRunner",
    "Runner",
    "bundle_runner",
    "default_runtime",
    "validation_runtimes",
]
