"""From what a process left behind to a verdict, without running anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sdmobile.validate.gpu.browser import heap_words
from sdmobile.validate.gpu.check import GpuRun, judge, judge_answer, judge_ending
from sdmobile.validate.gpu.model_facts import ModelFacts, TensorFacts
from sdmobile.validate.gpu.order import Answer, Ending, run_order
from sdmobile.validate.gpu.verdict import GpuStatus, GpuVerdict
from tests.validate.gpu.models import Case

BASE = GpuVerdict("browser", "float32", GpuStatus.NOT_RUN)
GOOD = Answer(True, adapter="a", limit=1 << 20, proof={"good": True})
FACTS = ModelFacts((("BROADCAST_TO", ("m.norm;1",)),), (), (TensorFacts("t", (1, 4, 4, 4), "FLOAT32", False),))


def _judged(answer: Answer, *log: str) -> GpuVerdict:
    return judge_answer(BASE, answer, Ending(0, log, "running"), FACTS, lambda proof: bool(proof.get("good")))


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (GOOD, GpuStatus.ACCEPTED, None),
        (replace(GOOD, proof={}), GpuStatus.NOT_RUN, "nothing shows that the GPU computed"),
        (replace(GOOD, limit=255), GpuStatus.TOO_LARGE, "t needs 256 bytes in one buffer; this device holds 255"),
        (replace(GOOD, limit=256), GpuStatus.ACCEPTED, None),
        (replace(GOOD, errors=["GPUValidationError: x"]), GpuStatus.RUN_FAILED, "GPUValidationError: x"),
        (replace(GOOD, error="a\n└ ERROR: b"), GpuStatus.RUN_FAILED, "a; b"),
        (replace(GOOD, accepted=False), GpuStatus.REJECTED, "did not take every operator"),
        (Answer(False, "Aborted(OOM)"), GpuStatus.CRASHED, "Aborted(OOM) (while running)"),
        (Answer(False, "Target crashed"), GpuStatus.CRASHED, "Target crashed"),
        (Answer(False, "ERROR: x" + heap_words(1740 << 20, 2 << 30)), GpuStatus.CRASHED, "1740 of 2048 MiB"),
        (Answer(False, "it failed" + heap_words(999 << 20, 2 << 30)), GpuStatus.REJECTED, "it failed"),
        (Answer(False, unavailable="no adapter"), GpuStatus.NOT_RUN, "no adapter"),
    ],
)
def test_answers(answer: Answer, status: GpuStatus, words: str | None) -> None:
    verdict = _judged(answer)
    assert verdict.status == status
    assert words is None or words in (verdict.reason or "")
    assert verdict.passed == (status == GpuStatus.ACCEPTED)


def test_a_complaint_counts_whatever_the_answer_says() -> None:
    log = ("Following operations are not supported by GPU delegate:", "BROADCAST_TO: Operation is not supported.")
    verdict = _judged(GOOD, *log)
    assert verdict.status == GpuStatus.REJECTED
    assert verdict.refused[0].modules == ("m.norm",)


def test_endings_without_an_answer() -> None:
    assert judge_ending(BASE, Ending(None, (), "compiling"), 5).status == GpuStatus.TIMED_OUT
    assert judge_ending(BASE, Ending(-6, (), "compiling"), 5).signal == "SIGABRT"
    failed = judge_ending(BASE, Ending(1, ("Traceback", "ImportError: x"), "starting"), 5)
    assert (failed.status, failed.missing is not None) == (GpuStatus.NOT_RUN, True)
    assert "ImportError: x" in (failed.reason or "")


def test_process_that_cannot_start_leaves_its_words(tmp_path: Path) -> None:
    ending = run_order("sdmobile.no_such_module", tmp_path, 60, {})
    assert ending.code == 1
    assert "No module named sdmobile.no_such_module" in ending.log[-1]
    assert ending.phase == "starting"


def test_outputs_are_compared_by_name_shape_and_value(plain: Case) -> None:
    accepted = replace(BASE, status=GpuStatus.ACCEPTED)
    right = plain.expected["output_0"]
    assert judge(GpuRun(accepted, ({"output_0": right},)), [plain.expected]).passed
    for wrong, words in (
        ({"other": right}, "the outputs are other"),
        ({"output_0": right[:, :1]}, "has the shape"),
        ({"output_0": right * float("nan")}, "non-finite"),
        ({"output_0": -right}, "35 dB needed"),
    ):
        verdict = judge(GpuRun(accepted, (wrong,)), [plain.expected])
        assert verdict.status == GpuStatus.WRONG
        assert words in (verdict.reason or "")
    too_large = judge(GpuRun(replace(BASE, status=GpuStatus.TOO_LARGE), ({"output_0": right},)), [plain.expected])
    assert too_large.status == GpuStatus.TOO_LARGE
    assert too_large.worst is not None
