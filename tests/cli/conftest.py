"""Fixtures of the command tests."""

from __future__ import annotations

from pathlib import Path

import pytest

import sdmobile.formats.bundle.reading as bundle_module
from sdmobile.formats.bundle.reading import Bundle
from tests.validate.fixtures import onnx_bundle

__all__ = ["onnx_bundle"]


@pytest.fixture
def folder(sd15: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a bundle whose files are packaged graphs."""
    monkeypatch.setenv("SDMOBILE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(bundle_module, "is_bundle", lambda path: True)
    monkeypatch.setattr(bundle_module, "open_bundle", lambda path, verify=True: sd15)
    return str(tmp_path)
