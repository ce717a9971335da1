"""Names stand for what ships only where there is no such file, and never for anything outside of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.checkpoints.bundled import BUNDLED, bundled_checkpoint, bundled_path


@pytest.mark.parametrize("name", BUNDLED)
def test_a_name_stands_for_what_ships(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundled_path(Path(name)) == bundled_checkpoint(name)
    assert bundled_path(Path(name, "unet", "config.json")) == bundled_checkpoint(name) / "unet" / "config.json"
    Path(name).mkdir()
    assert bundled_path(Path(name)) == Path(name)


@pytest.mark.parametrize("path", ["", "other", "shapes-64/../../secret", "/shapes-64", "./runs/shapes-64"])
def test_other_paths_stay_as_they_are(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundled_path(Path(path)) == Path(path)
