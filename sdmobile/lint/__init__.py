"""Predicts, without a driver or a phone, what a phone's runtime says to an exported file.

from sdmobile.lint import lint_file

report = lint_file(Path("unet.tflite"), "ml-drift")
report.verdict  # "accepted", "refused", or "miscomputed": taken, and known to compute something else
"""

from __future__ import annotations

from sdmobile.formats.errors import FormatError
from sdmobile.lint.dispatch import (
    RUNTIMES,
    device_limits,
    device_runtime,
    lint_bundle,
    lint_component,
    lint_file,
    target_of,
)
from sdmobile.lint.engine import Engine, parse_engine
from sdmobile.lint.limits import Limits, limits_of
from sdmobile.lint.report import Finding, LintReport, Verdict, worst

__all__ = [
    "RUNTIMES",
    "Engine",
    "Finding",
    "FormatError",
    "Limits",
    "LintReport",
    "Verdict",
    "device_limits",
    "device_runtime",
    "limits_of",
    "lint_bundle",
    "lint_component",
    "lint_file",
    "parse_engine",
    "target_of",
    "worst",
]
