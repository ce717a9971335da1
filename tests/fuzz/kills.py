"""`python -m tests.fuzz.kills --cases 200 --seed 1`: kills writers of bundles at random and looks for what is lost.

Two writers take turns: one of small made-up bundles, stopped before a random system call, and the export command with
its component in the cache, stopped before a random system call or after a random time. Half of the cases go without
the system's flagged renames.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sdmobile.basics import renames
from sdmobile.basics.scratch import MARK
from sdmobile.formats.bundle import writing
from sdmobile.formats.bundle.reading import MANIFEST
from tests.fuzz.processes import Ending, Way, run_stopped

FILES = ("model.bin", "tokenizer/vocab.json", MANIFEST)


class HalfWrittenError(Exception):
    """What lies at the output is neither the old nor the new bundle."""


def fill(folder: Path, text: str) -> None:
    """Writes a made-up bundle whose files all say the same."""
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def export(out: Path, text: str, overwrite: bool) -> None:
    """Does what every command does that writes a bundle."""
    writing.check_output(out, overwrite)
    with writing.staging(out) as work:
        fill(work / "bundle", text)
        writing.put_in_place(work / "bundle", out, overwrite)


def content(out: Path) -> str | None:
    """Returns what a whole made-up bundle says, None if there is none.

    Raises:
        HalfWrittenError: files are missing, too many, or of different bundles.
    """
    if not out.exists():
        return None
    present = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    texts = {(out / name).read_text() for name in present}
    if present != set(FILES) or len(texts) != 1:
        raise HalfWrittenError(f"{out}: {sorted(present)}, {len(texts)} texts")
    return texts.pop()


def hidden(folder: Path) -> list[str]:
    """Returns the names of hidden files and folders, such as work in progress."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


class MadeUp:
    """Writes made-up bundles."""

    steps = 40

    def write(self, out: Path, version: str) -> None:
        """Writes or replaces the bundle."""
        export(out, version, overwrite=True)

    def version(self, out: Path) -> str | None:
        """Returns which bundle is there, whole."""
        return content(out)


class Exported:
    """Exports a component of a tiny checkpoint, from the cache; its versions differ by their licence line.

    Args:
        folder: for checkpoint and cache.
    """

    steps = 120

    def __init__(self, folder: Path) -> None:
        from sdmobile.exporters.cache import ComponentCache
        from tests.synthetic import write_checkpoint

        self._checkpoint = write_checkpoint(folder / "tiny", preset="tiny", seed=0)
        self._cache = ComponentCache(folder / "cache")
        self.write(folder / "first", "first")
        started = time.perf_counter()
        self.write(folder / "first", "second")
        self.seconds = time.perf_counter() - started

    def write(self, out: Path, version: str) -> None:
        """Writes or replaces the bundle; the version is in its manifest."""
        from sdmobile.exporters.bundle import export_bundle
        from sdmobile.exporters.request import ExportRequest, make_plan

        request = ExportRequest(self._checkpoint, "onnx", out, components=("text_encoder",), overwrite=True)
        plan = make_plan(request)
        export_bundle(type(plan)(**{**vars(plan), "warnings": (version,)}), self._cache, lambda *_: None)

    def version(self, out: Path) -> str | None:
        """Returns which bundle is there; every file is compared with the manifest's hashes."""
        from sdmobile.formats.bundle.reading import BundleError, open_bundle

        if not out.exists():
            return None
        try:
            return open_bundle(out).manifest["warnings"][0]
        except BundleError as error:
            raise HalfWrittenError(str(error)) from error


@contextmanager
def _plain_renames(plain: bool) -> Iterator[None]:
    before = renames._system_call  # pyright: ignore[reportPrivateUsage]
    if plain:
        renames._system_call = lambda: None  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        renames._system_call = before  # pyright: ignore[reportPrivateUsage]


def killed_once(writer: MadeUp | Exported, folder: Path, choice: random.Random) -> str:
    """Kills one run at random and returns what became of the bundle.

    Returns:
        "old", "new" or "none" for what the next run found, "finished" where the kill came too late; "lost",
        "half-written" or "left over" for a fault.
    """
    out, old, plain = folder / "out", choice.choice([None, "old"]), choice.random() < 0.5
    if old is not None:
        writer.write(out, old)
    seconds = getattr(writer, "seconds", None)
    if seconds is not None and choice.random() < 0.5:
        ending = run_stopped(_timed(lambda: writer.write(out, "new"), choice.uniform(0, seconds)), 0, Way.KILL, plain)
    else:
        ending = run_stopped(lambda: writer.write(out, "new"), choice.randint(1, writer.steps), Way.KILL, plain)
    try:
        with _plain_renames(plain):
            verdict = _verdict(writer, out, old, plain, ending)
            writer.write(out, "newer")
        whole = writer.version(out) == "newer"
    except HalfWrittenError:
        return "half-written"
    return verdict if whole and hidden(folder) == [] else "left over"


def _timed(action: Callable[[], None], seconds: float) -> Callable[[], None]:
    def run() -> None:
        threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGKILL]).start()
        action()
        os._exit(0)

    return run


def _verdict(writer: MadeUp | Exported, out: Path, old: str | None, plain: bool, ending: Ending) -> str:
    if not ending.killed:
        return "finished" if writer.version(out) == "new" else "lost"
    if plain or old is None:
        writing.check_output(out, overwrite=True)  # what the next run does first
    version = writer.version(out)
    if version not in (old, "new"):
        return "lost"
    return version or "none"


def campaign(cases: int, seed: int, exported: bool = True) -> Counter[str]:
    """Kills a number of runs and counts what became of the bundles.

    Args:
        cases: how many.
        seed: decides all choices.
        exported: take the export command in turn with the made-up writer.
    """
    choice, counts = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        writers: list[MadeUp | Exported] = [MadeUp()]
        if exported:
            (Path(name) / "export").mkdir()
            writers.append(Exported(Path(name) / "export"))
        for case in range(cases):
            folder = Path(name) / f"case-{case}"
            folder.mkdir()
            counts[killed_once(writers[case % len(writers)], folder, choice)] += 1
            shutil.rmtree(folder)
    return counts


def main() -> int:
    """Runs the campaign of the command line, prints counts and returns 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--made-up", action="store_true", help="made-up bundles only: milliseconds each")
    options = parser.parse_args()
    started = time.perf_counter()
    counts = campaign(options.cases, options.seed, not options.made_up)
    faults = counts["lost"] + counts["half-written"] + counts["left over"]
    print(", ".join(f"{verdict} {count}" for verdict, count in sorted(counts.items())))
    print(f"{options.cases} cases, {faults} faults, {time.perf_counter() - started:.0f} s; work in progress: *{MARK}*")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
