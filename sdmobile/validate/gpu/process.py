"""Runs one order in a process of its own, with a time limit, and ends everything that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmobile.validate.gpu.order import LOG, PHASE

if TYPE_CHECKING:
    from pathlib import Path

_GRACE = 5.0


@dataclass(frozen=True)
class Ending:
    """How the process ended.

    Args:
        code: exit code; negative for a signal, None when the time was up.
        log: everything it printed.
        phase: the last thing it said it was doing.
    """

    code: int | None
    log: tuple[str, ...]
    phase: str

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that ended the process, if one did."""
        return signal.Signals(-self.code).name if self.code is not None and self.code < 0 else None


def run_order(module: str, folder: Path, timeout: float, environment: dict[str, str]) -> Ending:
    """Runs `python -m module folder` and waits for it.

    Args:
        module: the way's own program.
        folder: where order and inputs lie; also the process's folder for temporary files.
        timeout: seconds; then the process and all its descendants are killed.
        environment: variables on top of the present ones.
    """
    variables = {**os.environ, **environment, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    file = folder / LOG
    with file.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", module, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,
        )
        try:
            code: int | None = child.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
    lines = tuple(file.read_text("utf-8", errors="replace").splitlines())
    phases = [line[len(PHASE) :] for line in lines if line.startswith(PHASE)]
    return Ending(code, lines, phases[-1] if phases else "starting")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kills what is left of the process; a browser puts its own processes into another group."""
    import psutil

    try:
        family = psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if child.poll() is None:
        child.kill()
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=_GRACE)
    child.wait()
