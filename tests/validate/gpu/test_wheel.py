"""The wheel way: float16, composites, crashes and the limit of a buffer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdmobile.validate.gpu import check_file, run_on_gpu
from sdmobile.validate.gpu.verdict import ACCEPTED, CRASHED, NOT_RUN, TOO_LARGE, Way
from sdmobile.validate.gpu.wheel import proves_gpu, run_times
from tests.validate.gpu.models import Case, Large, write_case

Needs = Callable[[Way], None]


def test_float16_rounds(needs: Needs, plain: Case) -> None:
    needs("wheel")
    verdict = check_file(plain.path, plain.inputs, plain.expected, way="wheel", precision="float16", timeout=120)
    assert verdict.status == ACCEPTED, verdict.reason
    assert verdict.worst is not None
    assert 50 < verdict.worst.psnr_db < 90  # float32 gives more than 120


def test_composites_are_not_tried(needs: Needs, composite: Case) -> None:
    needs("wheel")
    verdict = check_file(composite.path, composite.inputs, composite.expected, way="wheel", timeout=120)
    assert verdict.status == NOT_RUN
    assert verdict.missing is None
    assert "odml.group_norm" in (verdict.reason or "")


def test_crash_is_a_verdict_with_its_signal(needs: Needs, composite: Case) -> None:
    needs("wheel")
    verdict = run_on_gpu(composite.path, [composite.inputs], way="wheel", timeout=120, force=True).verdict
    assert verdict.status == CRASHED
    assert verdict.signal == "SIGSEGV"
    assert "while compiling" in (verdict.reason or "")


@pytest.mark.slow
def test_tensor_beyond_the_buffer_limit_is_not_trusted(needs: Needs, tmp_path: Path) -> None:
    needs("wheel")
    case = write_case(tmp_path, "large", Large(), (1, 4, 1056, 1024))
    verdict = check_file(case.path, case.inputs, case.expected, way="wheel", timeout=300)
    assert verdict.status == TOO_LARGE
    assert verdict.largest is not None
    assert verdict.largest.bytes == 1056 * 1024 * 32 * 4
    assert verdict.largest.limit == 2**27
    assert not verdict.passed
    assert verdict.worst is not None  # told, whatever it is, but it decides nothing


def test_proof_needs_gpu_buffers_the_driver_and_its_work() -> None:
    good = {"buffer_types": [26, 26], "driver_loaded": True, "driver_seconds": 0.01}
    assert proves_gpu(good)
    for lacking in (
        {"buffer_types": [26, 1]},
        {"buffer_types": []},
        {"driver_loaded": False},
        {"driver_seconds": 0.0},
    ):
        assert not proves_gpu({**good, **lacking})


def test_first_run_is_kept_apart() -> None:
    assert run_times([]) == {}
    assert run_times([3.0]) == {"first": 3.0}
    assert run_times([3.0, 1.0, 2.0, 1.5]) == {"first": 3.0, "later": 1.5}
