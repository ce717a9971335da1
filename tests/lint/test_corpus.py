"""The lint against Google's accelerator: its stored answers to the corpus, and, slowly, the accelerator itself."""

from __future__ import annotations

import os
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.lint.corpus import corpus
from tests.lint.corpus.accelerator import ask, mesa_version
from tests.lint.corpus.answers import Comparison, Recorded, compare, read_answers, verdict_of

_LEAST_CASES = 150
_LEAST_AGREEMENT = 0.95


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return read_answers()


@pytest.fixture(scope="module")
def comparison(recorded: Recorded) -> Comparison:
    return compare(recorded)


def test_every_case_has_an_answer(recorded: Recorded) -> None:
    assert len(corpus()) == len(recorded.answers) + recorded.invalid
    assert recorded.litert == version("ai-edge-litert"), "record the answers again: the wheel has changed"


def test_the_corpus_has_models_of_every_verdict(recorded: Recorded) -> None:
    counts = Counter(answer.verdict for answer in recorded.answers.values())
    assert len(recorded.answers) >= _LEAST_CASES
    assert min(counts[verdict] for verdict in ("accepted", "refused", "miscomputed")) >= 30, counts


def test_nothing_is_accepted_that_the_accelerator_refuses_or_computes_wrong(comparison: Comparison) -> None:
    assert [row.told() for row in comparison.false_accepted] == []


def test_lint_and_accelerator_agree(comparison: Comparison) -> None:
    share = 1 - len(comparison.disagreements) / len(comparison.rows)
    assert share >= _LEAST_AGREEMENT, [row.told() for row in comparison.disagreements]


@pytest.mark.slow
def test_the_accelerator_still_answers_so(recorded: Recorded, tmp_path: Path) -> None:
    if mesa_version() is None:
        message = "no Vulkan driver: run make gpu-setup, or set VK_DRIVER_FILES"
        if os.environ.get("SDMOBILE_GPU_REQUIRED"):
            pytest.fail(message)
        pytest.skip(message)
    cases = [case for case in corpus() if case.name in recorded.answers]
    paths = [tmp_path / f"{index}.tflite" for index in range(len(cases))]
    for case, path in zip(cases, paths, strict=True):
        path.write_bytes(case.build())
    found = {case.name: verdict_of(case, answer).verdict for case, answer in zip(cases, ask(paths), strict=True)}
    assert found == {name: answer.verdict for name, answer in recorded.answers.items()}
