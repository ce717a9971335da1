"""`sdmobile doctor`: versions against the package's own metadata, abilities, and the fix for what is missing."""

from __future__ import annotations

import json
from importlib import metadata

import pytest
import typer
from typer.testing import CliRunner

from sdmobile.cli.doctor import doctor
from sdmobile.errors import EXIT_MISSING
from sdmobile.validate import environment
from sdmobile.validate.environment import TORCH

app = typer.Typer()
app.command()(doctor)


def test_json_is_all_of_stdout() -> None:
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    torch = next(library for library in found["libraries"] if library["name"] == "torch")
    assert torch["installed"] == metadata.version("torch")
    assert torch["extra"] == TORCH
    assert found["machine"]["memory_bytes"] > 0


def test_table_for_people() -> None:
    result = CliRunner().invoke(app, [])
    for text in ("python", "coremltools", "export for ios", "run Core ML itself", "GPU check"):
        assert text in result.stdout


def test_a_missing_core_library_has_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "stated_requirements", lambda: ["no-such-library-here>=1"])
    result = CliRunner().invoke(app, [])
    assert result.exit_code == EXIT_MISSING
    assert "missing" in result.stdout
