"""Runs the worker on many files: a time limit for each, a new process after each crash, the accelerator's own words."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sdmobile.validate.gpu.places import find_driver

_SECONDS = 120.0
_REFUSALS = re.compile(r"not supported by GPU delegate:\n(.*?)\n(?:No|\d+) operations will run", re.DOTALL)
_REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Answer:
    """What the accelerator did with one file.

    Args:
        verdict: one of the worker's, or "crashed" or "hung".
        reason: the refused operators and why, the error, or the signal.
    """

    verdict: str
    reason: str = ""


def ask(paths: Sequence[Path]) -> Iterator[Answer]:
    """Yields the answer to each file, on the driver of VK_DRIVER_FILES or else the one of `make gpu-setup`."""
    left = list(paths)
    while left:
        with _worker() as (process, log):
            while left:
                answer = _answer(process, log, left.pop(0))
                yield answer
                if answer.verdict in ("crashed", "hung"):
                    break


def mesa_version() -> str | None:
    """Returns the version of the Vulkan driver, None where there is none."""
    if "VK_DRIVER_FILES" not in os.environ:
        driver = find_driver()
        return None if driver is None else driver.version
    manifest = json.loads(Path(os.environ["VK_DRIVER_FILES"]).read_text("utf-8"))
    found = re.search(rb"Mesa (\d[\w.~+-]*)", Path(manifest["ICD"]["library_path"]).read_bytes())
    return found.group(1).decode() if found else "unknown"


def _driver() -> dict[str, str]:
    driver = None if "VK_DRIVER_FILES" in os.environ else find_driver()
    return {} if driver is None else driver.environment()


@contextmanager
def _worker() -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.lint.corpus.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=_REPOSITORY,
            env={**os.environ, **_driver(), "PYTHONPATH": str(_REPOSITORY), "OMP_NUM_THREADS": "1"},
        )
        try:
            yield process, log
        finally:
            process.kill()
            process.communicate()


def _answer(process: subprocess.Popen[str], log: IO[str], path: Path) -> Answer:
    assert process.stdin
    assert process.stdout
    begin = os.fstat(log.fileno()).st_size
    process.stdin.write(f"{path}\n")
    process.stdin.flush()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = ""
        while not line.startswith("{"):  # the libraries print to standard output too
            if not selector.select(_SECONDS):
                return Answer("hung", f"no answer in {_SECONDS:.0f} s")
            line = process.stdout.readline()
            if not line:
                return Answer("crashed", _ending(process.wait()))
    log.seek(begin)
    found = json.loads(line)
    refused = _REFUSALS.search(log.read())
    return Answer(found["verdict"], refused.group(1).replace("\n", "; ") if refused else found["reason"])


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
