"""What both ways must tell apart: right, refused, wrong, endless, and computed somewhere else than on the GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import psutil
import pytest

from sdmobile.validate.gpu import check_file, judge, run_on_gpu
from sdmobile.validate.gpu.verdict import WAYS, GpuStatus, Way
from tests.validate.gpu.models import Case

Needs = Callable[[Way], None]
both_ways = pytest.mark.parametrize("way", WAYS)


@both_ways
def test_right_file_is_accepted_and_its_error_is_that_of_float32(needs: Needs, plain: Case, way: Way) -> None:
    needs(way)
    verdict = check_file(plain.path, plain.inputs, plain.expected, way=way, timeout=120)
    assert verdict.status == GpuStatus.ACCEPTED, verdict.reason
    assert verdict.worst is not None
    assert verdict.worst.psnr_db > 120
    assert verdict.adapter
    assert verdict.largest is not None
    assert verdict.largest.limit is not None
    assert verdict.largest.limit >= 2**27
    assert verdict.seconds["first"] > 0


@both_ways
def test_transposed_weight_is_wrong(needs: Needs, transposed: Case, plain: Case, way: Way) -> None:
    needs(way)
    verdict = check_file(transposed.path, plain.inputs, plain.expected, way=way, timeout=120)
    assert verdict.status == GpuStatus.WRONG
    assert verdict.worst is not None
    assert verdict.worst.psnr_db < 35
    assert "35 dB needed" in (verdict.reason or "")


@both_ways
def test_broadcast_to_is_refused_and_its_module_named(needs: Needs, refused: Case, way: Way) -> None:
    needs(way)
    verdict = check_file(refused.path, refused.inputs, refused.expected, way=way, timeout=120)
    assert verdict.status == GpuStatus.REJECTED
    assert [operator.operator for operator in verdict.refused] == ["BROADCAST_TO"]
    assert verdict.refused[0].count == 2
    assert any("GroupNorm" in module for module in verdict.refused[0].modules)
    assert "BROADCAST_TO: Operation is not supported." in (verdict.reason or "")
    assert verdict.worst is None


@both_ways
def test_endless_run_is_ended_with_all_its_processes(
    needs: Needs, slow: Case, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(way)
    with tempfile.TemporaryDirectory(prefix="endless-") as folder:  # tmp_path is too long for the browser's socket
        monkeypatch.setattr("tempfile.tempdir", folder)
        _check_that_it_is_ended(slow, way, folder)


def _check_that_it_is_ended(slow: Case, way: Way, folder: str) -> None:
    verdict = check_file(slow.path, slow.inputs, slow.expected, way=way, timeout=5)
    assert verdict.status == GpuStatus.TIMED_OUT
    assert "no result within 5 s" in (verdict.reason or "")
    alive = [process for process in psutil.process_iter(["cmdline"]) if folder in str(process.info["cmdline"])]
    assert alive == []


@both_ways
def test_run_on_the_cpu_is_found_out(needs: Needs, plain: Case, way: Way) -> None:
    """The CPU's result is right, and the wheel calls it fully accelerated; it is still no proof of anything."""
    needs(way)
    run = run_on_gpu(plain.path, [plain.inputs], way=way, timeout=120, accelerator="cpu")
    verdict = judge(run, [plain.expected])
    assert verdict.status == GpuStatus.NOT_RUN
    assert not verdict.passed
    assert "nothing shows that the GPU computed" in (verdict.reason or "")
