"""Predicts what an iPhone says to a Core ML package, from what Apple and others have published."""

from __future__ import annotations

from sdmobile.lint.coreml.package import lint_package

__all__ = ["lint_package"]
