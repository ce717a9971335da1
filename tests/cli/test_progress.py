"""How far a command is: a line per stage where stderr is no terminal, a live display where it is, nothing if quiet."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import pytest

from sdmobile.cli import output
from sdmobile.cli.app import run
from sdmobile.cli.progress import StageView, step_progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_STAGE = re.compile(r" *\d+\.\d s  \S.*")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    yield
    output.be_quiet(False)
    output.use_stream(None)


def _work() -> None:
    with step_progress() as tell:
        for what in ("sampling with torch", "unet on litert"):
            for done in range(4):
                tell(what, done, 4)


def _export() -> None:
    with StageView() as view:
        view.event("unet", {"event": "start", "stage": "convert"})
        view.event("unet", {"event": "end", "stage": "convert", "seconds": 2.5, "peak_rss_bytes": 2**30})
        view.event("vae_decoder", {"event": "reused"})


def test_without_a_terminal_each_stage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    _work()
    _export()
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert [line.split(" s  ", 1)[1] for line in lines] == [
        "sampling with torch",
        "unet on litert",
        "unet          convert        2.5 s    1.00 GiB peak",
        "vae_decoder   reused (finished before, nothing has changed)",
    ]
    assert all(_STAGE.fullmatch(line) for line in lines)
    assert captured.out == ""


def test_a_terminal_shows_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = _Terminal()
    output.use_stream(stream)
    _work()
    assert "unet on litert" in stream.getvalue()  # what came before it was too short to be drawn
    assert "3/4" in stream.getvalue()
    assert not any(_STAGE.fullmatch(line) for line in stream.getvalue().splitlines())
    assert stream.getvalue().rstrip("\r\n").endswith("\x1b[2K")  # the line is erased


def test_libraries_print_past_the_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Rich would take sys.stderr over and print what libraries say above its bar."""
    import sys

    monkeypatch.setenv("TERM", "xterm")
    stream = _Terminal()
    output.use_stream(stream)
    with step_progress() as tell:
        tell("sampling", 0, 1)
        print("chatter", file=sys.stderr)
    assert "chatter" not in stream.getvalue()
    assert capsys.readouterr().err == "chatter\n"


def test_quiet_prints_neither(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    output.be_quiet(True)
    _work()
    _export()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TERM", "xterm")
    stream = _Terminal()
    output.use_stream(stream)
    _work()
    assert stream.getvalue() == ""


@pytest.mark.parametrize("where", ["before", "behind"])
def test_quiet_leaves_the_result(
    where: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(tmp_path / "picture.png")
    command = ["generate", str(tiny_checkpoint), "-p", "a circle", "--steps", "2", "-o", picture]
    assert run(["--quiet", *command] if where == "before" else [*command, "-q"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{picture}\n"
    assert captured.err == ""
    assert run([*command, "--overwrite"]) == 0  # the next command in this process speaks again
    captured = capsys.readouterr()
    assert "sampling with torch" in captured.err
    assert all(re.search(r"\d s", line) for line in captured.err.splitlines())


def test_errors_and_warnings_are_printed_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--quiet", "inspect", "nowhere"]) == 4
    assert capsys.readouterr().err.startswith("error: ")


def test_validation_says_what_it_is_at(
    onnx_bundle: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--reference", str(tiny_checkpoint), "--steps", "2", "--max-samples", "1", "--no-cache", "--json"]
    assert run(["validate", str(onnx_bundle), *options]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert all(_STAGE.fullmatch(line) for line in lines)
    stages = [line.split(" s  ", 1)[1] for line in lines]
    assert len(stages) == len(set(stages)), stages
    for stage in ("sampling with torch", "unet on ort", "sampling with ort"):
        assert stage in stages
