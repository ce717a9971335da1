"""What libraries print does not reach the terminal, and is not lost where it is all that is left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from sdmobile.cli.app import app
from tests.cli.test_hostile_bundles import _commands
from tests.in_process import exports_in_this_process

_TINY = ("--steps", "1", "--max-samples", "1")
# Every command, as it makes the libraries talk that it uses; CHECKPOINT, IOS, ANDROID, ONNX and TFLITE are put in.
_COMMANDS: dict[str, tuple[str, ...]] = {
    "devices list": (),
    "devices show": ("cpu",),
    "devices compare": ("cpu", "android-cpu"),
    "devices check": ("nowhere.toml",),
    "devices measurements": ("cpu",),
    "devices add-measurement": (
        "ANDROID",
        "--component",
        "unet",
        "--milliseconds",
        "5",
        "--place",
        "here",
        "--runtime",
        "adb gpu",
    ),
    "devices merge": (".", "--bundle", "ANDROID"),
    "devices fit": ("galaxy-s23-ultra", "-o", "fitted.toml"),
    "quantize recipes": (),
    "rewrites list": (),
    "doctor": (),
    "rewrites explain": ("CHECKPOINT", "--component", "text_encoder"),
    "rewrites ablate": ("CHECKPOINT", "--component", "vae_decoder", "--graph-only", "--rounds", "0"),
    "inspect": ("CHECKPOINT",),
    "export": ("CHECKPOINT", "--target", "all", "--components", "text_encoder", "--no-cache", "-o", "all"),
    "validate": ("ANDROID", "--reference", "CHECKPOINT", *_TINY, "--no-cache"),
    "lint": ("IOS",),
    "gpu-check": ("TFLITE",),
    "serve": ("ANDROID", "--reference", "CHECKPOINT", "--steps", "1", "--port", "0", "--for", "0"),
    "generate": ("ONNX", "-p", "a circle", "--steps", "1"),
    "profile": ("ANDROID", "--measure", "--repeats", "1"),
    "quantize apply": ("IOS", "--recipe", "palette4", "-o", "palette4"),
    "quantize analyze": ("CHECKPOINT", "--component", "text_encoder", *_TINY, "--probes", "1", "-o", "found.json"),
    "quantize search": ("found.json", "--bits", "5", "--checkpoint", "CHECKPOINT", *_TINY),
    "quantize curve": ("found.json", "--bits", "5", "--checkpoint", "CHECKPOINT", "--pictures", "0", *_TINY),
    "push": ("ONNX", "someone/tiny"),
    "structures list": (),
    "structures where": (),
    "structures verify": (),
    "structures make": ("CHECKPOINT", "--components", "text_encoder"),
    "train shapes": ("--quick", "1", "--evaluate-prompts", "1"),
    "train mobile": ("structure", "--quick", "1"),
    "train dit": ("--quick", "1"),
    "train evaluate": ("shapes-64-mobile", "--prompts", "1"),
    "train evaluate-inpainting": ("CHECKPOINT", "--prompts", "1"),
    "train features": ("--steps", "1", "-o", "features.safetensors"),
}
_FAST = ("devices list", "quantize recipes", "structures where", "rewrites list", "rewrites explain", "doctor")
# No library begins its lines so.
_OURS = re.compile(r"(warning|note|error|memory, predicted|left out): .*|.* \((browser|wheel), float(32|16)\): .*")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> dict[str, Path]:
    """A working folder and what is put into the commands."""
    folder = tmp_path_factory.mktemp("chatter")
    return {"FOLDER": folder, "CHECKPOINT": tiny_checkpoint}


@pytest.fixture(scope="module")
def bundles(world: dict[str, Path], tiny_checkpoint: Path) -> dict[str, Path]:
    from sdmobile.exporters.bundle import export_bundle
    from sdmobile.exporters.cache import ComponentCache
    from sdmobile.exporters.request import ExportRequest, make_plan

    places = dict(world)
    with exports_in_this_process():
        for target in ("ios", "android", "onnx"):
            plan = make_plan(ExportRequest(tiny_checkpoint, target, world["FOLDER"] / target))
            places[target.upper()] = export_bundle(plan, ComponentCache(None), lambda *_: None).path
    return {**places, "TFLITE": places["ANDROID"] / "text_encoder.tflite"}


def _run(command: str, arguments: tuple[str, ...], places: dict[str, Path]) -> subprocess.CompletedProcess[str]:
    folder = places["FOLDER"]
    words = [str(places.get(word, word)) for word in (*command.split(), *arguments)]
    return subprocess.run(
        [sys.executable, "-m", "sdmobile.cli.app", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "SDMOBILE_CACHE": str(folder / "cache"), "SDMOBILE_DATA": str(folder / "data")},
    )


def test_every_command_is_listed_here() -> None:
    assert set(_commands(typer.main.get_command(app))) == set(_COMMANDS)


def _check(command: str, places: dict[str, Path]) -> None:
    done = _run(command, (*_COMMANDS[command], "--quiet"), places)
    foreign = [line for line in done.stderr.splitlines() if not _OURS.fullmatch(line)]
    assert foreign == []
    assert "This is a fault of sdmobile" not in done.stderr
    assert done.returncode != 1


@pytest.mark.parametrize("command", _FAST)
def test_no_line_of_a_library(command: str, world: dict[str, Path]) -> None:
    _check(command, world)


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in _COMMANDS if command not in _FAST])
def test_no_line_of_a_library_where_bundles_are_made_and_run(command: str, bundles: dict[str, Path]) -> None:
    _check(command, bundles)


def test_debug_shows_it(world: dict[str, Path]) -> None:
    """And the test above would see it: `rewrites explain` imports libraries that say something to fd 2."""
    done = _run("rewrites explain", (*_COMMANDS["rewrites explain"], "--debug"), world)
    assert "absl::InitializeLog" in done.stderr or "torch" in done.stderr  # which of them, a computer decides


_SCRIPT = """
import ctypes, logging, os, sys, warnings
from sdmobile.cli import app, output
def command(*_, **__):
    os.write(2, b"native.cc:7 Check failed: x > 0\\n")
    warnings.warn("a remark of Python's")
    print("a progress bar", file=sys.stderr)
    logging.getLogger("torch").warning("a record of a library")
    logging.getLogger("sdmobile.cache").warning("note: a record of ours")
    logging.getLogger("sdmobile.workers").debug("words of a worker")
    output.remark("a remark of ours")
    print("data")
    {ending}
app.app = command
app.main()
"""
_CHATTER = (
    "native.cc:7 Check failed: x > 0",
    "a remark of Python's",
    "a progress bar",
    "a record of a library",
    "words of a worker",
)


def _ended(ending: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _SCRIPT.format(ending=ending), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_our_own_words_stay() -> None:
    done = _ended("return 0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "data\n", "note: a record of ours\na remark of ours\n")


def test_debug_keeps_nothing_aside() -> None:
    done = _ended("return 0", "--debug")
    assert all(words in done.stderr for words in (*_CHATTER, "a record of ours", "a remark of ours"))


@pytest.mark.parametrize(
    ("ending", "code"),
    [("os.abort()", -6), ("ctypes.string_at(0)", -11), ("os.kill(os.getpid(), 9)", -9), ("raise ValueError('no')", 1)],
)
def test_the_last_words_of_what_crashes_are_shown(ending: str, code: int) -> None:
    done = _ended(ending)
    assert done.returncode == code
    assert all(words in done.stderr for words in _CHATTER)
    assert ("native code crashed" in done.stderr) == (code < 0)
    assert ("Fatal Python error" in done.stderr) == (code in (-6, -11))
    assert ("error: ValueError: no" in done.stderr) == (code == 1)


@pytest.mark.parametrize(
    ("ending", "code"), [("os.kill(os.getpid(), 15)", 143), ("raise KeyboardInterrupt", 130), ("sys.exit(0)", 0)]
)
def test_an_end_in_order_says_no_more(ending: str, code: int) -> None:
    done = _ended(ending)
    assert done.returncode == code
    assert not any(words in done.stderr for words in _CHATTER)


def test_the_log_shown_is_short() -> None:
    done = _ended("[print('x' * 1000, i, file=sys.stderr) for i in range(1000)]; os.abort()")
    lines = done.stderr.splitlines()
    assert len(lines) < 50
    assert max(map(len, lines)) <= 300


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">/dev/null 2>&1 </dev/null"])
def test_a_stderr_that_takes_nothing_is_no_fault(redirection: str) -> None:
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m sdmobile.cli.app devices list {redirection}"], timeout=60)
    assert done.returncode == 0
