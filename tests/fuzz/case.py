"""What a case of the campaign is, how a command is run inside one, and what is right about how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from random import Random

from sdmobile.errors import (
    EXIT_BELOW_THRESHOLD,
    EXIT_CHECKPOINT,
    EXIT_MISSING,
    EXIT_OK,
    EXIT_OUTPUT,
    EXIT_RESOURCES,
    EXIT_UNSUPPORTED,
    EXIT_USAGE,
)

# How a command may answer an input that it cannot take. Not 1, a fault of sdmobile; not 9, a component's process that
# fails on what could have been seen before; not 130, as nobody interrupts a case that does not say so.
REFUSALS = frozenset({EXIT_USAGE, EXIT_CHECKPOINT, EXIT_UNSUPPORTED, EXIT_OUTPUT, EXIT_RESOURCES, EXIT_MISSING})
MIB = 1 << 20


class Outcome(str, Enum):
    """How a case ended."""

    RIGHT = "right"
    REFUSED = "refused"
    FAULT = "fault"


@dataclass(frozen=True)
class Verdict:
    """How a case ended, and in one line what was seen; `code` is the exit code of a refusal."""

    outcome: Outcome
    words: str
    code: int | None = None


Judge = Callable[[Random, Path, Path], Verdict]


def drawn_from(*weighted: tuple[float, Judge]) -> Judge:
    """Returns a case that draws which of several it is, each by its weight."""
    weights, cases = zip(*weighted, strict=True)

    def case(chance: Random, folder: Path, shared: Path) -> Verdict:
        return chance.choices(cases, weights)[0](chance, folder, shared)

    return case


@dataclass(frozen=True)
class Kind:
    """Cases of one kind.

    Args:
        name: as in `--case NAME:NUMBER`.
        share: part of a campaign's cases.
        seconds: a case that takes longer hangs; the machine may be busy, so that this is many times the usual.
        case: judges one case: draws it from the generator, works in an empty folder (the working directory), and may
            read, but not change, what `prepare` wrote.
        prepare: writes what the cases of this kind share, and imports the libraries that they need; called once.
        memory: bytes of address space that a case may add to what the libraries take.
    """

    name: str
    share: float
    seconds: float
    case: Callable[[Random, Path, Path], Verdict]
    prepare: Callable[[Path], None]
    memory: int = field(default=4096 * MIB)


@dataclass(frozen=True)
class Ended:
    """A command that came to its end: its exit code and what it printed."""

    arguments: tuple[str, ...]
    code: int
    output: str
    errors: str


def right(words: str) -> Verdict:
    """Returns the verdict of a case whose value is the right one."""
    return Verdict(Outcome.RIGHT, words)


def fault(words: str) -> Verdict:
    """Returns the verdict of a case that shows a fault of sdmobile."""
    return Verdict(Outcome.FAULT, words)


def run_command(arguments: Sequence[object], folder: Path) -> Ended:
    """Runs `sdmobile` with arguments in this process, as the program does, and returns how it ended.

    Args:
        arguments: the command line without the program's name.
        folder: where its two streams are kept.
    """
    from sdmobile.cli.app import run

    texts = [str(argument) for argument in arguments]
    with _stream(1, folder / "stdout.txt"), _stream(2, folder / "stderr.txt"):
        code = run(texts)
    output, errors = ((folder / name).read_text("utf-8", errors="replace") for name in ("stdout.txt", "stderr.txt"))
    return Ended(tuple(texts), code, output, errors)


@contextmanager
def _stream(descriptor: int, file: Path) -> Iterator[None]:
    """Sends one of the two streams into a file, from native code as well."""
    name, errors = {1: ("stdout", "strict"), 2: ("stderr", "backslashreplace")}[descriptor]  # as Python opens them
    before, stream = os.dup(descriptor), getattr(sys, name)
    stream.flush()
    with file.open("wb") as sink:
        os.dup2(sink.fileno(), descriptor)
    try:
        with open(descriptor, "w", encoding="utf-8", errors=errors, closefd=False) as text:
            setattr(sys, name, text)
            yield
    finally:
        setattr(sys, name, stream)
        os.dup2(before, descriptor)
        os.close(before)


def judge(ended: Ended, wanted: Collection[int] = (EXIT_OK, *REFUSALS)) -> Verdict:
    """Returns the verdict on a command by its exit code and its last words.

    A refusal is one line that begins with "error: " and comes last; of the command line's own parser, it is that
    parser's few lines with "Error: ".

    Args:
        ended: the command.
        wanted: exit codes that are right here.
    """
    name, lines = " ".join(ended.arguments[:2]), [line for line in ended.errors.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if "Traceback (most recent call last)" in ended.errors:
        return fault(f"{name}: traceback, exit code {ended.code}: {last[:200]}")
    if ended.code not in wanted:
        return fault(f"{name}: exit code {ended.code}: {_end(lines)}")
    if ended.code in (EXIT_OK, EXIT_BELOW_THRESHOLD):
        return Verdict(Outcome.RIGHT, f"{name}: exit code {ended.code}", ended.code)
    errors = [line for line in lines if line.startswith("error: ")]
    parser = ended.code == EXIT_USAGE and last.startswith("Error: ") and not errors
    if not parser and (len(errors) != 1 or last != errors[0]):
        return fault(f"{name}: exit code {ended.code} must come with one line, got {len(lines)}: {_end(lines)}")
    return Verdict(Outcome.REFUSED, f"{name}: {last[:300]}", ended.code)


def _end(lines: Sequence[str]) -> str:
    return " | ".join(lines[-2:])[-400:] or "no word"


def judge_all(verdicts: Sequence[Verdict]) -> Verdict:
    """Returns the first fault, else the first refusal, else the first verdict of several about one input."""
    order = (Outcome.FAULT, Outcome.REFUSED, Outcome.RIGHT)
    return min(verdicts, key=lambda verdict: order.index(verdict.outcome))
