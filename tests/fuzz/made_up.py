"""Made-up bundles, written as every command writes one: milliseconds each, and half of one is noticed."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from sdmobile.formats.bundle import writing
from sdmobile.formats.bundle.reading import MANIFEST
from tests.fuzz.stops import run_stopped

FILES = ("model.bin", "tokenizer/vocab.json", MANIFEST)


class HalfWrittenError(Exception):
    """What lies at the output is neither the old nor the new bundle."""


def fill(folder: Path, text: str) -> None:
    """Writes a made-up bundle whose files all say the same."""
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def export(out: Path, text: str, overwrite: bool = True) -> None:
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
        raise HalfWrittenError(f"{out.name}: {sorted(present)}, {len(texts)} texts")
    return texts.pop()


def hidden(folder: Path) -> list[str]:
    """Returns the names of hidden files and folders, such as work in progress."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def race(out: Path, overwrite: bool, plain_renames: bool) -> list[int]:
    """Lets two processes write "first" and "second" to one output, which both give its name at the same moment.

    Returns:
        Their exit codes, the smaller first; 1 for anything that is no refusal.
    """
    gate, start = os.pipe()
    children = []
    for text in ("first", "second"):
        child = os.fork()
        if child == 0:
            os.close(start)
            ending = run_stopped(partial(_racer, out, text, overwrite, gate), 0, plain_renames=plain_renames)
            os._exit(0 if ending.done else ending.refused or 1)
        children.append(child)
    os.close(start)  # both are held until the last end that could write to the gate is closed
    os.close(gate)
    return sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def _racer(out: Path, text: str, overwrite: bool, gate: int) -> None:
    writing.check_output(out, overwrite)
    with writing.staging(out) as work:
        fill(work / "bundle", text)
        os.read(gate, 1)
        writing.put_in_place(work / "bundle", out, overwrite)
