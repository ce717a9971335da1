"""Runs the programs that set-up needs, quietly, and says what they said when they fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from sdmobile.basics.tether import tethered
from sdmobile.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_TAIL = 12


def run_quietly(
    command: Sequence[str],
    purpose: str,
    *,
    fix: str | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 900.0,
) -> str:
    """Runs a program and returns what it printed.

    Args:
        command: program and arguments.
        purpose: what it shall do, for the message when it fails.
        fix: what a person can do then.
        folder: working folder.
        environment: variables on top of the present ones.
        timeout: seconds.

    Raises:
        MissingDependencyError: it is not there, fails or does not end.
    """
    variables = {**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})}
    if shutil.which(command[0], path=variables.get("PATH")) is None:
        raise MissingDependencyError(f"to {purpose}, {command[0]} must be installed", None, fix)
    try:
        done = subprocess.run(
            tethered(list(command)),
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise MissingDependencyError(f"{command[0]} must {purpose}", f"no end after {timeout:g} s", fix) from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.strip().splitlines()[-_TAIL:])
        raise MissingDependencyError(f"{command[0]} must {purpose}", f"exit code {done.returncode}\n{tail}", fix)
    return done.stdout
