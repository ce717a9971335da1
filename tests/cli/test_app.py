"""The command as users start it: fast help, one line per error, documented exit codes, nothing on stdout but data."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sdmobile
from sdmobile.cli import app


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sdmobile.cli.app", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


_HEAVY = {
    "torch",
    "numpy",
    "coremltools",
    "diffusers",
    "transformers",
    "litert_torch",
    "ai_edge_litert",
    "onnx",
    "rich",
}


@pytest.mark.parametrize(
    ("arguments", "not_imported"),
    [
        (["--help"], _HEAVY | {"pydantic", "attr", "markdown_it", "pygments"}),
        (["export", "--help"], _HEAVY),  # Typer itself reads a command's values with pydantic
        (["quantize", "search", "--help"], _HEAVY),
    ],
)
def test_help_imports_only_what_parses_arguments(arguments: list[str], not_imported: set[str]) -> None:
    script = "import sys; from sdmobile.cli.app import run; run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    assert not_imported & {name.partition(".")[0] for name in done.stderr.split()} == set()


def test_help_names_every_command() -> None:
    done = _run("--help")
    assert done.returncode == 0
    for command in ("inspect", "export", "validate", "generate", "train", "doctor"):
        assert command in done.stdout
    assert "and what costs most." in " ".join(done.stdout.split())  # whole sentences


def test_version() -> None:
    assert _run("--version").stdout.strip() == f"sdmobile {sdmobile.__version__}"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["export", "nowhere", "--target", "ios"], 4, "nowhere"),
        (["export", "--target", "blackberry"], 5, "ios, android, onnx"),
        (["export"], 2, "--target"),
        (["frobnicate"], 2, "frobnicate"),
        (["validate", "nowhere"], 4, "nowhere"),
        (["generate", "nowhere", "--prompt", "x", "-o", "x.png"], 4, "nowhere"),
        (["inspect", "nowhere"], 4, "nowhere"),
    ],
)
def test_bad_input_is_one_message_and_its_exit_code(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.run(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = _run("--debug", "inspect", tmp_path / "nowhere")
    assert done.returncode == 4
    assert "Traceback" in done.stderr


def test_dry_run_plans_and_writes_nothing(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.run(["export", str(tiny_checkpoint), "--target", "android", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [part["file"] for part in plan["components"]][1] == "unet.tflite"
    assert plan["estimated_peak_memory_bytes"] > 1e8
    assert list(tmp_path.iterdir()) == []


def test_the_reference_page_is_that_of_the_commands() -> None:
    page = Path(sdmobile.__file__).parent.parent / "docs" / "cli.md"
    command = [
        sys.executable,
        "-m",
        "typer",
        "sdmobile.cli.app",
        "utils",
        "docs",
        "--name",
        "sdmobile",
        "--title",
        "sdmobile",
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert made.strip() == page.read_text("utf-8").strip(), "run `make docs`"


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 7), (errno.EACCES, 6)])
def test_a_full_disk_and_a_locked_folder_have_their_exit_codes(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(app, "app", fail)
    assert app.run([]) == code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),  # what oneDNN says
    ],
)
def test_want_of_memory_is_told(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(app, "app", fail)
    assert app.run(["inspect"]) == 7
    assert capsys.readouterr().err.startswith("error: the command needs more memory than it can have")


def test_what_stdout_cannot_print_is_printed_otherwise() -> None:
    """A path may hold bytes that are no text, and a pipe may take ASCII only."""
    script = r"from sdmobile.cli import app; app.app = lambda *_, **__: print('\udcff \xe9'); app.run([])"
    command = [sys.executable, "-X", "utf8=0", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert (done.returncode, done.stdout) == (0, "\\udcff \\xe9\n"), done.stderr
