"""Fixtures of the command tests."""

from __future__ import annotations

from tests.validate.fixtures import onnx_bundle

__all__ = ["onnx_bundle"]
