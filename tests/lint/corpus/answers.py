"""The stored answers of the accelerator, and how the lint compares with them."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sdmobile.lint import lint_file
from tests.lint.corpus import corpus
from tests.lint.corpus.accelerator import Answer
from tests.lint.corpus.case import Case

ANSWERS = Path(__file__).with_name("answers.json")
_MEANING = {"wrong": "miscomputed", "failed": "refused", "crashed": "refused", "hung": "refused"}


@dataclass(frozen=True)
class Recorded:
    """What the accelerator said.

    Args:
        litert: version of the wheel.
        mesa: version of the software driver.
        answers: case to verdict and reason.
        invalid: number of cases that LiteRT's CPU refuses, which say nothing about the GPU.
    """

    litert: str
    mesa: str
    answers: dict[str, Answer]
    invalid: int


@dataclass(frozen=True)
class Row:
    """One case: what the accelerator did, what the lint says."""

    name: str
    accelerator: str
    lint: str
    reason: str
    rules: tuple[str, ...]

    def told(self) -> str:
        """Returns the row for people."""
        return f"{self.name}: {self.accelerator} ({self.reason}), lint {self.lint} {list(self.rules)}"


@dataclass(frozen=True)
class Comparison:
    """All rows."""

    rows: tuple[Row, ...]

    @property
    def disagreements(self) -> tuple[Row, ...]:
        """The rows in which lint and accelerator differ."""
        return tuple(row for row in self.rows if row.accelerator != row.lint)

    @property
    def false_accepted(self) -> tuple[Row, ...]:
        """The rows in which the lint promises what does not hold."""
        return tuple(row for row in self.disagreements if row.lint == "accepted")


def verdict_of(case: Case, answer: Answer) -> Answer:
    """Returns an answer in the lint's words."""
    if answer.verdict == "wrong" and (not case.comparable or _within(case.tolerance, answer.reason)):
        return Answer("accepted")
    return Answer(_MEANING.get(answer.verdict, answer.verdict), answer.reason)


def _within(tolerance: float, reason: str) -> bool:
    """Returns whether a difference that the worker tells is small enough for a case."""
    told = re.search(r"differs by (\S+) of (\S+)$", reason)
    return told is not None and float(told[1]) <= tolerance * float(told[2])


def read_answers() -> Recorded:
    """Reads the stored answers."""
    stored = json.loads(ANSWERS.read_text("utf-8"))
    answers = {name: Answer("accepted") for name in stored["accepted"]}
    answers.update((name, Answer(verdict, reason)) for name, (verdict, reason) in stored["rest"].items())
    return Recorded(stored["ai_edge_litert"], stored["mesa"], answers, len(stored["invalid"]))


def compare(recorded: Recorded) -> Comparison:
    """Lints every recorded case.

    Raises:
        KeyError: a recorded case is not in the corpus.
    """
    cases = {case.name: case for case in corpus()}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "case.tflite")
        for name, answer in recorded.answers.items():
            path.write_bytes(cases[name].build())
            report = lint_file(path, "ml-drift")
            rows.append(Row(name, answer.verdict, report.verdict, answer.reason, tuple(report.rules())))
    return Comparison(tuple(rows))
