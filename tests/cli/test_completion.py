"""Shells complete commands, options and targets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = [sys.executable, "-m", "sdmobile.cli.app"]


def _offered(line: str) -> list[str]:
    """Returns what bash would offer at the end of a line."""
    words = line.split(" ")
    asked = {"_SDMOBILE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(_PROGRAM, capture_output=True, text=True, env={**os.environ, **asked}, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sdmobile ex", ["export"]),
        ("sdmobile quantize ", ["recipes", "apply", "analyze", "search", "curve"]),
        ("sdmobile validate --gp", ["--gpu"]),
        ("sdmobile validate --gpu ", ["off", "browser", "wheel", "both"]),
        ("sdmobile export --target ", ["ios", "android", "onnx", "all"]),
        ("sdmobile export --target ios,", ["ios,android", "ios,onnx"]),
        ("sdmobile export --qui", ["--quiet"]),
    ],
)
def test_what_is_offered(line: str, offered: list[str]) -> None:
    assert _offered(line) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_gets_its_script(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}

    def in_bash(option: str) -> str:
        command = ["bash", "--norc", "-c", f'"$@" {option}; exit $?', "bash", *_PROGRAM]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=60).stdout

    shown = in_bash("--show-completion")
    assert "complete -o default -F _sdmobile_completion sdmobile" in shown
    assert "bash completion installed" in in_bash("--install-completion")
    assert (tmp_path / ".bash_completions" / "sdmobile.sh").read_text().strip() == shown.strip()
    assert "sdmobile.sh" in (tmp_path / ".bashrc").read_text()
