"""Writers of bundles that are killed, interrupted, short of room, or two at once; then what is left, and the next run.

old bundle or none ─▶ writer, stopped before a random system call or after a random time ─▶ old or new, whole?
                                                   next run ─▶ newer, and nothing hidden beside it

The writer is one of small made-up bundles, or the export command with its component in the cache. Half of the cases
take away the renames that exchange two names or move to a free one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Protocol

from sdmobile.basics import renames
from sdmobile.errors import EXIT_OUTPUT, EXIT_RESOURCES, ResourceError
from sdmobile.formats.bundle import writing
from tests.fuzz.case import Kind, Verdict, drawn_from, fault, right
from tests.fuzz.made_up import HalfWrittenError, content, export, hidden, race
from tests.fuzz.stops import Ending, Way, run_stopped

_STEPS = 40
_COST = "cost.json"


class Writer(Protocol):
    """Writes bundles and tells them apart."""

    steps: int

    def write(self, out: Path, version: str) -> None:
        """Writes the bundle, or replaces the one that is there."""
        ...

    def version(self, out: Path) -> str | None:
        """Returns which whole bundle is there, None if there is none; raises HalfWrittenError otherwise."""
        ...


class MadeUp:
    """Writes made-up bundles."""

    steps = _STEPS

    def write(self, out: Path, version: str) -> None:
        """Writes or replaces the bundle."""
        export(out, version)

    def version(self, out: Path) -> str | None:
        """Compares the files."""
        return content(out)


class Exported:
    """Exports a component of a tiny checkpoint, which is in the cache; the version is a warning in the manifest.

    Args:
        folder: with checkpoint and cache.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.steps, self.seconds = json.loads((folder / _COST).read_text())

    def write(self, out: Path, version: str) -> None:
        """Runs the export."""
        from dataclasses import replace

        from sdmobile.exporters.bundle import export_bundle
        from sdmobile.exporters.cache import ComponentCache
        from sdmobile.exporters.preflight import Check, Finding, Level, PreflightReport
        from sdmobile.exporters.request import ExportRequest, make_plan

        request = ExportRequest(self._folder / "tiny", "onnx", out, components=("text_encoder",), overwrite=True)
        report = PreflightReport("onnx", (Finding(Check.APP, Level.WARNING, version),))
        plan = replace(make_plan(request), report=report)
        export_bundle(plan, ComponentCache(self._folder / "cache"), lambda *_: None, ignore_limits=True)

    def version(self, out: Path) -> str | None:
        """Compares every file with the manifest's hashes."""
        from sdmobile.formats.bundle.reading import BundleError, open_bundle

        if not out.exists():
            return None
        try:
            return open_bundle(out).manifest["warnings"][0]
        except BundleError as error:
            raise HalfWrittenError(str(error)) from error


@contextmanager
def _renames(plain: bool) -> Iterator[None]:
    before = renames._system_call  # pyright: ignore[reportPrivateUsage]
    if plain:
        renames._system_call = lambda: None  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        renames._system_call = before  # pyright: ignore[reportPrivateUsage]


def _stopped(chance: Random, folder: Path, shared: Path, way: Way) -> Verdict:
    if chance.random() < 0.5:
        return stopped(MadeUp(), chance, folder, way)
    writer = Exported(shared)
    by_time = way is Way.KILL and chance.random() < 0.5
    return stopped(writer, chance, folder, way, writer.seconds if by_time else None)


def stopped(writer: Writer, chance: Random, folder: Path, way: Way, seconds: float | None = None) -> Verdict:
    """Stops a writer at random and looks at what it leaves.

    Args:
        writer: what is stopped.
        chance: decides where it is stopped, and what there was before.
        folder: an empty one.
        way: how it is stopped.
        seconds: what the writer needs, to kill it after a random time; None for a random system call.
    """
    out = folder / "out"
    old, plain = chance.choice([None, "old", "old"]), chance.random() < 0.5
    if old is not None:
        writer.write(out, old)
    if seconds is not None:
        ending = run_stopped(
            _killed_after(chance.uniform(0, 1.2 * seconds), lambda: writer.write(out, "new")), 0, way, plain
        )
    else:
        ending = run_stopped(lambda: writer.write(out, "new"), chance.randint(1, writer.steps), way, plain)
    try:
        with _renames(plain):
            words = _left(writer, out, old, plain, ending)
            writer.write(out, "newer")
            after = writer.version(out)
    except HalfWrittenError as error:
        return fault(f"half-written after {way.value}: {error}")
    if words.startswith("lost") or after != "newer":
        return fault(f"{words}, then {after}, after {way.value}: {ending}")
    rest = hidden(folder)
    return fault(f"left over after {way.value}: {rest}") if rest else right(f"{way.value}: {words}")


def _killed_after(seconds: float, action: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        timer = threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGKILL])
        timer.daemon = True
        timer.start()
        action()

    return run


def _left(writer: Writer, out: Path, old: str | None, plain: bool, ending: Ending) -> str:
    """Returns which bundle is there after a stop, or what is wrong."""
    if ending.fault is not None or ending.refused not in (None, EXIT_RESOURCES):
        return f"lost its word: {ending}"
    if not ending.killed and hidden(out.parent):
        return f"lost sight of {hidden(out.parent)}"
    if plain:
        writing.check_output(out, overwrite=True)  # what the next run does first
    version = writer.version(out)
    if ending.done and version != "new":
        return f"lost the new one for {version}"
    if version not in (old, "new"):
        return f"lost the old one for {version}"
    return "finished" if ending.done else version or "none"


def _killed(chance: Random, folder: Path, shared: Path) -> Verdict:
    return _stopped(chance, folder, shared, Way.KILL)


def _interrupted(chance: Random, folder: Path, shared: Path) -> Verdict:
    return _stopped(chance, folder, shared, Way.SIGNAL)


def _full(chance: Random, folder: Path, shared: Path) -> Verdict:
    """A call that fails for want of room may be one of the clean-up itself; then the next run cleans up."""
    verdict = _stopped(chance, folder, shared, Way.FULL_DISK)
    return right("full disk at the clean-up") if "lost sight" in verdict.words else verdict


def _two(chance: Random, folder: Path, _: Path) -> Verdict:
    out, overwrite, plain = folder / "out", chance.random() < 0.5, chance.random() < 0.5
    codes = race(out, overwrite, plain)
    wanted = [0, 0] if overwrite else [0, EXIT_OUTPUT]
    if codes != wanted or content(out) not in ("first", "second") or hidden(folder):
        return fault(f"two at once: {codes}, {content(out)}, {hidden(folder)}")
    return right(f"two at once: {codes}")


def _small_disk(chance: Random, folder: Path, _: Path) -> Verdict:
    """A file system of one megabyte, or one that is read-only, where root may mount one."""
    disk = folder / "disk"
    disk.mkdir()
    read_only = chance.random() < 0.3
    options = "ro,size=1m" if read_only else "size=1m"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        return right("small disk: nothing can be mounted here")
    try:
        if read_only:
            ending = run_stopped(lambda: export(disk / "out", "new"), 0)
            return right("read-only") if ending.refused == EXIT_OUTPUT else fault(f"read-only: {ending}")
        export(disk / "out", "old")
        ending = run_stopped(lambda: export(disk / "out", "x" * chance.randint(400_000, 2_000_000)), 0)
        kept = content(disk / "out") == "old" and hidden(disk) == [] and ending.refused == ResourceError.exit_code
        return right("small disk") if kept else fault(f"small disk: {ending}, {hidden(disk)}")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


CASES = (
    (6, _killed),
    (2, _interrupted),
    (2, _full),
    (1, _two),
    (1, _small_disk),
)
case = drawn_from(*CASES)


def prepare(shared: Path) -> None:
    """Writes a tiny checkpoint, fills the cache by exporting it, and measures an export from the cache: steps, time."""
    from tests.synthetic import write_checkpoint

    write_checkpoint(shared / "tiny")
    (shared / _COST).write_text("[0, 0]")
    writer = Exported(shared)
    writer.write(shared / "first", "first")
    started = time.perf_counter()
    writer.write(shared / "first", "second")
    seconds = time.perf_counter() - started
    steps = run_stopped(lambda: writer.write(shared / "first", "third"), 0).steps
    (shared / _COST).write_text(json.dumps([steps, seconds]))


KIND = Kind("processes", share=0.12, seconds=60.0, case=case, prepare=prepare)
