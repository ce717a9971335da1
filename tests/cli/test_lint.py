"""`sdmobile lint`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sdmobile.cli.lint import lint
from sdmobile.errors import EXIT_UNSUPPORTED
from sdmobile.lint import FormatError
from tests.lint.corpus.graph import Graph

app = typer.Typer()
app.command()(lint)


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    graph = Graph()
    x = graph.input((1, 8))
    path = tmp_path / "refused.tflite"
    path.write_bytes(graph.bytes(*graph.op("BROADCAST_TO", [x, graph.const([4, 8])], (4, 8), version=2)))
    return path


@pytest.fixture
def accepted(tmp_path: Path) -> Path:
    graph = Graph()
    path = tmp_path / "accepted.tflite"
    path.write_bytes(graph.bytes(*graph.op("TANH", [graph.input((1, 8))], (1, 8))))
    return path


def test_json_is_all_of_stdout_and_the_exit_code_tells(refused: Path) -> None:
    result = CliRunner().invoke(app, [str(refused), "--json"])
    assert result.exit_code == EXIT_UNSUPPORTED
    document = json.loads(result.stdout)
    assert document["verdict"] == "refused"
    assert [report["path"] for report in document["files"]] == [str(refused)]


def test_an_accepted_file_ends_with_zero(accepted: Path) -> None:
    result = CliRunner().invoke(app, [str(accepted)])
    assert result.exit_code == 0
    assert "ACCEPTED" in result.stdout
    assert "prediction" in result.stdout


def test_people_see_rule_fix_and_source(refused: Path) -> None:
    shown = " ".join(CliRunner().invoke(app, [str(refused)]).stdout.split())
    for part in ("BROADCAST_TO version 2", "no-such-operator", "float32[1, 8]", "do: ", "source: LiteRT"):
        assert part in shown


def test_a_device_of_another_target_is_an_error(accepted: Path) -> None:
    result = CliRunner().invoke(app, [str(accepted), "--device", "iphone-14-pro-max"])
    assert "must run files for android" in str(result.exception)


def test_a_broken_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"\0\0\0\0TFL3")
    assert isinstance(CliRunner().invoke(app, [str(path)]).exception, FormatError)


def test_the_command_needs_no_torch(accepted: Path) -> None:
    code = "import sys; from sdmobile.cli.app import run; run(['lint', sys.argv[1]]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(accepted)], capture_output=True).returncode == 0
