"""The campaign's runner: whatever a case does to its process is one case's end, and has a name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.__main__ import spread, table
from tests.fuzz.case import MIB, Ended, Kind, Outcome, Verdict, judge, right
from tests.fuzz.runner import CANARY, Case, Result, Runner

pytestmark = pytest.mark.filterwarnings("ignore:os.fork")  # JAX has threads; the children do not use it

Cases = Callable[[Random, Path, Path], Verdict]


def _kind(case: Cases, name: str = "kind", seconds: float = 30.0, memory: int = 64 * MIB) -> Kind:
    return Kind(name, 1.0, seconds, case, lambda shared: None, memory)


def _ended(case: Cases, folder: Path, seconds: float = 30.0) -> Verdict:
    """Returns the verdict on one case, run as the campaign does."""
    kind = _kind(case, seconds=seconds)
    runner = Runner(folder)
    runner.prepare([kind])
    [result] = runner.run([Case(kind, 0, 0)])
    return result.verdict


def _crash(chance: Random, folder: Path, shared: Path) -> Verdict:
    os.kill(os.getpid(), signal.SIGSEGV)
    return right("")


def _hang(chance: Random, folder: Path, shared: Path) -> Verdict:
    time.sleep(60)
    return right("")


def _end_of_process(chance: Random, folder: Path, shared: Path) -> Verdict:
    os._exit(0)


def _flood(chance: Random, folder: Path, shared: Path) -> Verdict:
    return right(str(len(bytearray(512 * MIB))))


def _own_code(chance: Random, folder: Path, shared: Path) -> Verdict:
    Path(os.environ[CANARY]).touch()
    return right("")


def _error(chance: Random, folder: Path, shared: Path) -> Verdict:
    raise KeyError("no such thing")


def _left_process(chance: Random, folder: Path, shared: Path) -> Verdict:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    return right("")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (_crash, "SIGSEGV"),
        (_end_of_process, "without a word"),
        (_flood, "MemoryError"),
        (_own_code, "own code"),
        (_error, "KeyError: 'no such thing' (test_runner.py:"),
        (_left_process, "outlives"),
    ],
)
def test_what_a_case_does_to_its_process_is_a_fault(
    case: Cases, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzz.runner._GRACE", 0.2)
    verdict = _ended(case, tmp_path)
    assert verdict.outcome is Outcome.FAULT
    assert words in verdict.words


def test_a_hang_has_an_end(tmp_path: Path) -> None:
    started = time.monotonic()
    verdict = _ended(_hang, tmp_path, seconds=0.3)
    assert verdict.outcome is Outcome.FAULT
    assert "no end within 0.3 s" in verdict.words
    assert time.monotonic() - started < 10


def test_a_case_is_drawn_from_seed_and_number_alone(tmp_path: Path) -> None:
    kind = _kind(lambda chance, folder, shared: right(str(chance.random())))
    cases = [Case(kind, number, seed) for seed in (0, 1) for number in range(3)]
    runner = Runner(tmp_path)
    runner.prepare([kind])
    forwards = {(r.case.number, r.case.seed): r.verdict.words for r in runner.run(cases)}
    backwards = {(r.case.number, r.case.seed): r.verdict.words for r in runner.run(cases[::-1])}
    assert forwards == backwards
    assert len(set(forwards.values())) == 6


def test_nothing_stays_of_a_case_that_is_no_fault(tmp_path: Path) -> None:
    def write(chance: Random, folder: Path, shared: Path) -> Verdict:
        (folder / "closed").mkdir()
        (folder / "closed/file").touch()
        (folder / "closed").chmod(0)
        return right("")

    _ended(write, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]


def test_no_case_begins_when_time_is_up(tmp_path: Path) -> None:
    kind = _kind(lambda chance, folder, shared: right(""))
    runner = Runner(tmp_path)
    runner.prepare([kind])
    assert not list(runner.run([Case(kind, 0, 0)], until=time.monotonic()))


def test_cases_are_spread_by_share_and_mixed() -> None:
    kinds = [Kind(name, share, 1.0, _crash, lambda shared: None) for name, share in (("a", 0.75), ("b", 0.25))]
    cases = spread(kinds, 100, 7)
    assert [sum(case.kind.name == name for case in cases) for name in "ab"] == [75, 25]
    assert {case.kind.name for case in cases[:4]} == {"a", "b"}
    assert len({case.name for case in cases}) == 100


def test_the_table_counts_refusals_by_exit_code() -> None:
    verdicts = [right(""), Verdict(Outcome.REFUSED, "", 4), Verdict(Outcome.REFUSED, "", 6), Verdict(Outcome.FAULT, "")]
    rows = table(Result(Case(_kind(_crash), i, 0), verdict, 1.0) for i, verdict in enumerate(verdicts))
    assert [line.split() for line in rows.splitlines()] == [
        ["kind", "cases", "right", "exit", "4", "exit", "6", "fault", "seconds"],
        ["kind", "4", "1", "1", "1", "1", "4"],
        ["all", "4", "1", "1", "1", "1", "4"],
    ]


@pytest.mark.parametrize(
    ("code", "errors", "outcome"),
    [
        (0, "a note\n", Outcome.RIGHT),
        (4, "a note\nerror: the file is damaged: x\n", Outcome.REFUSED),
        (2, "Usage: sdmobile …\n\nError: No such option: --x\n", Outcome.REFUSED),
        (1, "error: KeyError: 'x'\nThis is a fault of sdmobile\n", Outcome.FAULT),
        (9, "error: the process that exported unet was killed\n", Outcome.FAULT),
        (4, "error: one\nerror: two\n", Outcome.FAULT),
        (4, "error: one line\nand another\n", Outcome.FAULT),
        (4, "", Outcome.FAULT),
        (0, "Traceback (most recent call last)\n", Outcome.FAULT),
        (130, "interrupted; nothing was left half-written\n", Outcome.FAULT),
    ],
)
def test_a_command_is_judged_by_code_and_last_line(code: int, errors: str, outcome: Outcome) -> None:
    assert judge(Ended(("inspect", "x"), code, "", errors)).outcome is outcome
