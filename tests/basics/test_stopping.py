"""Ctrl-C, `kill` and a closed terminal end a command in one way, with 128 + the signal's number."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from sdmobile.basics.stopping import heed_signals, undisturbed
from sdmobile.cli import app

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _run(
    number: signal.Signals, folder: Path, ignored: bool = False, stderr: str | None = None
) -> tuple[int, str, str]:
    """Runs a command, which a signal reaches during a move, in a forked child; returns code, stdout and stderr."""
    out, err = folder / "out", folder / "err"
    child = os.fork()
    if child == 0:
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(os.open(stderr or err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os._exit(_command(number, ignored))
    status = os.waitpid(child, 0)[1]
    return os.WEXITSTATUS(status), out.read_text(), err.read_text() if err.exists() else ""


def _command(number: signal.Signals, ignored: bool) -> int:
    @app.app.command("wait")
    def wait() -> None:
        try:
            with undisturbed():
                signal.raise_signal(number)
                os.write(1, b"moved\n")
            os.write(1, b"went on\n")
        finally:
            os.write(1, b"cleaned up\n")

    sys.stderr = os.fdopen(2, "w", buffering=1)  # not pytest's
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_DFL)
    if ignored:
        signal.signal(number, signal.SIG_IGN)
    heed_signals()
    return app.run(["wait"])


@pytest.mark.parametrize("number", _SIGNALS)
def test_a_signal_waits_for_a_move_and_ends_the_command(number: signal.Signals, tmp_path: Path) -> None:
    code, out, err = _run(number, tmp_path)
    assert code == 128 + number, err
    assert out == "moved\ncleaned up\n"
    assert "interrupted; nothing was left half-written" in err
    assert "Traceback" not in err


def test_a_signal_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    assert _run(signal.SIGHUP, tmp_path, ignored=True)[:2] == (0, "moved\nwent on\ncleaned up\n")


def test_a_terminal_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    """What is said about the interruption can no longer be written."""
    assert _run(signal.SIGHUP, tmp_path, stderr="/dev/full")[0] == 128 + signal.SIGHUP
