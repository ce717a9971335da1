"""A page, a bundle and a server for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.validate.serve.site import Prepared, Served, built_page, paper_bundle, prepared, served, with_golden


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built page, the data and the cache of the user are in the test's own folder, and no adb is found."""
    monkeypatch.setenv("SDMOBILE_GPU_HOME", str(tmp_path / "gpu"))
    monkeypatch.setenv("SDMOBILE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SDMOBILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    built_page(tmp_path / "gpu")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = paper_bundle(tmp_path / "in/bundle")
    with_golden(folder)
    return folder


@pytest.fixture
def ready(bundle: Path) -> Prepared:
    return prepared(bundle)


@pytest.fixture
def site(ready: Prepared, tmp_path: Path) -> Iterator[Served]:
    with served(ready, tmp_path / "results") as server:
        yield server
