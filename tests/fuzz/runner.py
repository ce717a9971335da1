"""Runs cases in forked children, so that a hang, a native crash or a flood of memory is one case's end and has a name.

libraries imported, shared inputs written ─▶ fork per case ─▶ limits, empty folder ─▶ case ─▶ verdict in a file
                                                  └─▶ too late, killed by a signal, no verdict, a process left: fault
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.case import MIB, Kind, Outcome, Verdict, fault

CANARY = "SDMOBILE_FUZZ_CANARY"
"""Environment variable with the path of a file that no case may bring into being."""
_MARK = "SDMOBILE_FUZZ_CASE"
_FILE_BYTES = 4096 * MIB  # a runaway file shall not fill the disk
_GRACE = 3.0  # seconds that a process has to notice that its parent is gone
_TICK = 0.01


@dataclass(frozen=True)
class Case:
    """One case: its kind, its number, and the seed of the campaign; the three say all that it does."""

    kind: Kind
    number: int
    seed: int

    @property
    def name(self) -> str:
        """As `--case` takes it."""
        return f"{self.kind.name}:{self.number}"

    def chance(self) -> Random:
        """Returns the generator that the case is drawn from."""
        return Random(f"{self.seed}/{self.name}")


@dataclass(frozen=True)
class Result:
    """A finished case and its time in seconds."""

    case: Case
    verdict: Verdict
    seconds: float


@dataclass(frozen=True)
class _Child:
    case: Case
    process: int
    folder: Path
    started: float

    @property
    def report(self) -> Path:
        return self.folder / "verdict.json"


class Runner:
    """Runs cases, some at a time.

    Args:
        folder: for the cases' folders and what they share; of a case that is not a fault nothing stays.
        jobs: how many at a time.
        keep: leave the folders of all cases.
    """

    def __init__(self, folder: Path, jobs: int = 2, keep: bool = False) -> None:
        self._folder = folder.absolute()
        self._jobs = jobs
        self._keep = keep

    def prepare(self, kinds: Iterable[Kind]) -> None:
        """Writes what the cases share and imports what they need, in this process."""
        for kind in kinds:
            shared = self._shared(kind)
            shared.mkdir(parents=True)
            kind.prepare(shared)

    def _shared(self, kind: Kind) -> Path:
        return self._folder / "shared" / kind.name

    def run(self, cases: Sequence[Case], until: float = float("inf")) -> Iterator[Result]:
        """Yields results as they come; after `until` (of `time.monotonic`) no case begins."""
        waiting, running = iter(cases), list[_Child]()
        try:
            while True:
                while len(running) < self._jobs and time.monotonic() < until:
                    case = next(waiting, None)
                    if case is None:
                        until = 0.0
                        break
                    running.append(self._start(case))
                if not running:
                    return
                for child in list(running):
                    result = self._ended(child)
                    if result is not None:
                        running.remove(child)
                        yield result
                time.sleep(_TICK)
        finally:
            for child in running:
                _kill(child.process)
                os.waitpid(child.process, 0)

    def _start(self, case: Case) -> _Child:
        folder = self._folder / case.name.replace(":", "-")
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "work").mkdir(parents=True)
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if process == 0:
            _child(case, folder, self._shared(case.kind))
        return _Child(case, process, folder, time.monotonic())

    def _ended(self, child: _Child) -> Result | None:
        """Returns the result of a child that ended, and ends one that is late."""
        seconds = time.monotonic() - child.started
        process, status = os.waitpid(child.process, os.WNOHANG)
        if process == 0:
            if seconds < child.case.kind.seconds:
                return None
            _kill(child.process)
            os.waitpid(child.process, 0)
            verdict = fault(f"no end within {child.case.kind.seconds:g} s: {_last_words(child.folder)}")
        else:
            verdict = _verdict(child, status)
        _kill(child.process)
        left = _left_processes(child.case)
        if left and verdict.outcome is not Outcome.FAULT:
            verdict = fault(f"a process outlives the command: {left}")
        if (child.folder / "canary").exists():
            verdict = fault(f"the input's own code was run ({verdict.words})")
        if not self._keep and verdict.outcome is not Outcome.FAULT:
            _remove(child.folder)
        return Result(child.case, verdict, seconds)


def _child(case: Case, folder: Path, shared: Path) -> None:
    """Is the life of a child; does not return."""
    code = 1
    try:
        os.setsid()
        _confine(case, folder)
        try:
            verdict = case.kind.case(case.chance(), folder / "work", shared)
        except BaseException as error:
            traceback.print_exc()
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error}"[:300].replace("\n", " ")
            verdict = fault(f"{text} ({Path(place.filename).name}:{place.lineno})")
        _unconfine()
        words = verdict.words.replace("\n", " | ")
        (folder / "verdict.json").write_text(json.dumps([verdict.outcome.value, words, verdict.code]), "utf-8")
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _confine(case: Case, folder: Path) -> None:
    """Gives this process the case's folder, streams, caches and limits."""
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.enable(file=2)
    temporary = folder / "tmp"
    temporary.mkdir()
    os.environ.update(
        {
            _MARK: case.name,
            CANARY: str(folder / "canary"),
            "HOME": str(folder / "home"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "SDMOBILE_CACHE": str(folder / "cache/sdmobile"),
            "SDMOBILE_DATA": str(folder / "data"),
            "TMPDIR": str(temporary),
        }
    )
    import tempfile

    tempfile.tempdir = str(temporary)
    if "torch" in sys.modules:  # threads do not survive a fork
        sys.modules["torch"].set_num_threads(1)
    os.chdir(folder / "work")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, resource.RLIM_INFINITY))
    limit_memory(case.kind.memory)


def limit_memory(growth: int) -> None:
    """Lets this process take so many bytes of address space more than it has."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + growth, resource.RLIM_INFINITY))


def _unconfine() -> None:
    """Takes back limits that a case set for itself."""
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (hard, hard))


def _verdict(child: _Child, status: int) -> Verdict:
    """Returns what a child that ended by itself has to say."""
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return fault(f"the process was ended by {name}: {_last_words(child.folder)}")
    if not child.report.exists():
        return fault(f"the process ended without a word, exit code {os.WEXITSTATUS(status)}")
    outcome, words, code = json.loads(child.report.read_text("utf-8"))
    return Verdict(Outcome(outcome), words, code)


def _last_words(folder: Path) -> str:
    """Returns the end of what a child printed, its command's errors included."""
    files = [file for file in (folder / "work/stderr.txt", folder / "log.txt") if file.is_file()]
    lines = [line.strip() for file in files for line in file.read_text("utf-8", errors="replace").splitlines()]
    return " | ".join(line for line in lines if line)[-300:] or "it printed nothing"


def _kill(process: int) -> None:
    """Ends a child and what it started in its own session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


def _left_processes(case: Case) -> str:
    """Returns the command of a process that a finished case has left behind, and ends it; it may need a moment."""
    deadline = time.monotonic() + _GRACE
    while left := list(_marked(case)):
        if time.monotonic() > deadline:
            commands = [command for _, command in left]
            for process, _ in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return "; ".join(commands)
        time.sleep(0.05)
    return ""


def _marked(case: Case) -> Iterator[tuple[int, str]]:
    """Yields the processes that carry the case's mark in their environment, with their commands."""
    mark = f"{_MARK}={case.name}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200].strip()
        except OSError:
            continue


def _remove(folder: Path) -> None:
    """Removes a case's folder, also where the case took its own permissions away."""
    for place, folders, _ in os.walk(folder):
        for name in folders:
            if not (inner := Path(place, name)).is_symlink():
                with suppress(OSError):
                    inner.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
