"""Fixtures that the tests of commands share with those of validation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.validate.bundles import write_bundle


@pytest.fixture(scope="session")
def onnx_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle of the tiny checkpoint; read it, do not change it."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "onnx", tiny_checkpoint)
