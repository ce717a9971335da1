"""`sdmobile export` for several targets, and for none that was named."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sdmobile.checkpoints
from sdmobile.checkpoints import open_checkpoint
from sdmobile.cli import output, targets
from sdmobile.cli.app import run
from sdmobile.cli.export import told_once
from sdmobile.exporters import bundle
from sdmobile.formats.bundle.reading import open_bundle
from tests.in_process import exports_in_this_process


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SDMOBILE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    with exports_in_this_process():
        yield
    output.use_stream(None)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The checkpoints that are opened."""
    seen: list[Path] = []

    def noted(path: Path, *arguments: Any, **options: Any) -> Any:
        seen.append(path)
        return open_checkpoint(path, *arguments, **options)

    monkeypatch.setattr(sdmobile.checkpoints, "open_checkpoint", noted)
    return seen


_SMALL = ("--components", "text_encoder")


def test_two_targets_are_two_bundles(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(tiny_checkpoint), "--target", "ios, onnx", *_SMALL]) == 0
    captured = capsys.readouterr()
    assert captured.out == "tiny-ios\ntiny-onnx\n"
    assert [open_bundle(Path(name)).target for name in captured.out.split()] == ["ios", "onnx"]
    assert captured.err.index("ios:") < captured.err.index("onnx:")


def test_the_folder_of_several_and_json(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--json", *_SMALL, "-o"]
    assert run(["export", str(tiny_checkpoint), "--target", "onnx,ios", *options, "both"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["bundle"] for result in results] == ["both/onnx", "both/ios"]
    assert run(["export", str(tiny_checkpoint), "--target", "onnx", *options, "one"]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"] == "one"
    assert run(["export", str(tiny_checkpoint), "--target", "ios,onnx", *options, "one"]) == 6
    assert "a folder that is no bundle" in capsys.readouterr().err


def test_what_is_finished_stays_when_the_next_fails(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sdmobile.errors import ComponentError

    export = bundle.run_component

    def failing(job: Any, *arguments: Any) -> Any:
        if job.target == "onnx":
            raise ComponentError("the process that exported text_encoder was killed", "SIGKILL")
        return export(job, *arguments)

    monkeypatch.setattr(bundle, "run_component", failing)
    assert run(["export", str(tiny_checkpoint), "--target", "ios,onnx,android", "--json", *_SMALL]) == 9
    captured = capsys.readouterr()
    assert [result["bundle"] for result in json.loads(captured.out)] == ["tiny-ios"]
    assert captured.err.splitlines()[-1].startswith("error: the process that exported")
    assert [path.name for path in Path().iterdir()] == ["tiny-ios"]


def test_what_cannot_be_done_for_one_is_refused_before_the_other_is_begun(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(tiny_checkpoint), "--target", "ios,android", "--quantize", "palette4", *_SMALL]) == 5
    Path("tiny-onnx").mkdir()
    Path("tiny-onnx/mine").touch()
    assert run(["export", str(tiny_checkpoint), "--target", "ios,onnx", *_SMALL]) == 6
    assert run(["export", str(tiny_checkpoint), "--target", "ios,android", "--device", "iphone-15-pro"]) == 5
    assert capsys.readouterr().out == ""
    assert [path.name for path in Path().iterdir()] == ["tiny-onnx"]


def test_a_dry_run_shows_all_plans_after_one_look_at_the_checkpoint(
    tiny_checkpoint: Path, opened: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(tiny_checkpoint), "--target", "all", "--dry-run"]
    assert run(command) == 0
    assert opened == [tiny_checkpoint]
    told = capsys.readouterr().err
    assert [told.count(f"tiny -> {target}") for target in ("ios", "android", "onnx")] == [1, 1, 1]
    assert run([*command, "--json"]) == 0
    assert [plan["target"] for plan in json.loads(capsys.readouterr().out)] == ["ios", "android", "onnx"]
    assert list(Path().iterdir()) == []


def test_without_a_terminal_the_target_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--target", ""], ["--target", " , "]):
        assert run(["export", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: --target must say what to export for: ios, android, onnx")


def test_a_target_is_taken_once() -> None:
    assert targets.chosen_targets("onnx,ios,onnx") == ("onnx", "ios")
    assert targets.chosen_targets("onnx,all") == ("ios", "android", "onnx")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_terminal_it_asks_until_it_understands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = _Terminal()
    output.use_stream(terminal)
    monkeypatch.setattr(sys, "stdin", _Terminal("\nandriod\nios,onnx\n"))
    assert targets.chosen_targets(None) == ("ios", "onnx")
    asked = terminal.getvalue()
    assert asked.count("Export for ios, android, onnx") == 3
    assert "Did you mean android?" in asked
    assert capsys.readouterr().out == ""


def test_the_question_in_a_terminal_of_its_own(tiny_checkpoint: Path) -> None:
    """Only stdout is piped, as in `bundle=$(sdmobile export …)`: the question is on the terminal, data alone is not."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "sdmobile.cli.app", "export", str(tiny_checkpoint), "--dry-run", "--json"]
    with subprocess.Popen(command, stdin=end, stderr=end, stdout=subprocess.PIPE, text=True) as process:
        os.close(end)
        asked = ""
        while "? " not in asked:
            asked += os.read(terminal, 4096).decode()
        os.write(terminal, b"onnx\n")
        assert process.stdout is not None
        plan = json.loads(process.stdout.read())
    os.close(terminal)
    assert process.returncode == 0
    assert asked.startswith("Export for ios, android, onnx")
    assert plan["target"] == "onnx"


def test_what_is_said_of_every_layer_is_said_once() -> None:
    assert told_once(["a rule refused a layer", "a limit", "a rule refused a layer"]) == (
        "a rule refused a layer (2 times)",
        "a limit",
    )
    assert told_once([]) == ()
