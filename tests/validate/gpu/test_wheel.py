"""The wheel way: float16, composites, crashes and the limit of a buffer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from sdmobile.validate.gpu import check_file, run_on_gpu, wheel
from sdmobile.validate.gpu.verdict import GpuStatus, Way
from sdmobile.validate.gpu.wheel import proves_gpu, run_times
from tests.validate.gpu.models import Case, Large, write_case

Needs = Callable[[Way], None]


def test_float16_rounds(needs: Needs, plain: Case) -> None:
    needs("wheel")
    verdict = check_file(plain.path, plain.inputs, plain.expected, way="wheel", precision="float16", timeout=120)
    assert verdict.status == GpuStatus.ACCEPTED, verdict.reason
    assert verdict.worst is not None
    assert 50 < verdict.worst.psnr_db < 90  # float32 gives more than 120


def test_composites_are_not_tried(needs: Needs, composite: Case) -> None:
    needs("wheel")
    verdict = check_file(composite.path, composite.inputs, composite.expected, way="wheel", timeout=120)
    assert verdict.status == GpuStatus.NOT_RUN
    assert verdict.missing is None
    assert "odml.group_norm" in (verdict.reason or "")


def test_crash_is_a_verdict_with_its_signal(needs: Needs, composite: Case) -> None:
    needs("wheel")
    verdict = run_on_gpu(composite.path, [composite.inputs], way="wheel", timeout=120, force=True).verdict
    assert verdict.status == GpuStatus.CRASHED
    assert verdict.signal == "SIGSEGV"
    assert "while compiling" in (verdict.reason or "")


@pytest.mark.slow
def test_tensor_beyond_the_buffer_limit_is_not_trusted(needs: Needs, tmp_path: Path) -> None:
    needs("wheel")
    case = write_case(tmp_path, "large", Large(), (1, 4, 1056, 1024))
    verdict = check_file(case.path, case.inputs, case.expected, way="wheel", timeout=300)
    assert verdict.status == GpuStatus.TOO_LARGE
    assert verdict.largest is not None
    assert verdict.largest.bytes == 1056 * 1024 * 32 * 4
    assert verdict.largest.limit == 2**27
    assert not verdict.passed
    assert verdict.worst is not None  # told, whatever it is, but it decides nothing


@pytest.mark.slow
def test_transformed_weights_beyond_the_buffer_limit_are_not_trusted(needs: Needs, tmp_path: Path) -> None:
    """44 MB in the file, 177 MB as ML Drift transforms them for Winograd's method: wrong without a word."""
    needs("wheel")
    case = write_case(tmp_path, "winograd", nn.Conv2d(1920, 640, 3, padding=1), (1, 1920, 32, 32))
    verdict = check_file(case.path, case.inputs, case.expected, way="wheel", timeout=300)
    assert verdict.status == GpuStatus.TOO_LARGE
    assert verdict.largest is not None
    assert verdict.largest.bytes == 36 * 1920 * 640 * 4
    assert verdict.largest.name.endswith("(transformed)")


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


def test_a_lost_patience_is_repeated_while_the_gpu_was_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [RuntimeError("Failed to lock custom tensor buffer"), RuntimeError("Failed to lock"), {"y": np.ones(1)}]
    busy = iter((True, True, False))

    def run_once(model: object, arrays: object) -> dict[str, np.ndarray]:
        answer = answers.pop(0)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    monkeypatch.setattr(wheel, "run_once", run_once)
    monkeypatch.setattr(wheel, "was_busy", lambda own: next(busy))
    assert wheel.run_patiently(None, {}, set())["y"] == 1
    for message in ("Failed to lock", "another error"):
        answers.append(RuntimeError(message))
        with pytest.raises(RuntimeError, match=message):
            wheel.run_patiently(None, {}, set())


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="processor time of threads is Linux's")
def test_busy_means_that_other_threads_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "PAUSE", 0.2)
    own = wheel.running_threads()
    assert not wheel.was_busy(own)
    stop = time.perf_counter() + 0.6
    threading.Thread(target=lambda: [None for _ in iter(lambda: time.perf_counter() < stop, False)]).start()
    assert wheel.was_busy(own)
