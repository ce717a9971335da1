"""The browser way: composites run, the GPU's work is counted, float16 is not claimed."""

from __future__ import annotations

from collections.abc import Callable

from sdmobile.validate.gpu import check_file
from sdmobile.validate.gpu.browser import heap_words, proves_gpu
from sdmobile.validate.gpu.verdict import GpuStatus, Way
from tests.validate.gpu.models import Case

Needs = Callable[[Way], None]


def test_composite_runs_and_its_kernels_are_counted(needs: Needs, composite: Case) -> None:
    needs("browser")
    verdict = check_file(composite.path, composite.inputs, composite.expected, timeout=120)
    assert verdict.status == GpuStatus.ACCEPTED, verdict.reason
    assert verdict.worst is not None
    assert verdict.worst.psnr_db > 120
    assert verdict.proof["dispatches"] > 0
    assert verdict.proof["output_places"] == ["webgpu"]
    assert verdict.proof["isolated"] is True
    assert 1 << 24 <= verdict.proof["heap"] < 1 << 28  # it starts with 16 MiB


def test_float16_is_not_run_rather_than_computed_in_float32(needs: Needs, plain: Case) -> None:
    needs("browser")
    verdict = check_file(plain.path, plain.inputs, plain.expected, precision="float16", timeout=120)
    assert verdict.status == GpuStatus.NOT_RUN
    assert "shader-f16" in (verdict.reason or "")


def test_proof_needs_kernels_submissions_and_gpu_memory() -> None:
    good = {"dispatches": 3, "submits": 1, "output_places": ["webgpu"]}
    assert proves_gpu(good)
    for lacking in ({"dispatches": 0}, {"submits": 0}, {"output_places": ["webgpu", "wasm"]}, {"output_places": []}):
        assert not proves_gpu({**good, **lacking})


def test_a_failure_with_most_of_the_memory_in_use_says_so() -> None:
    limit = 2 << 30
    assert heap_words(limit // 2 - 1, limit) == ""
    assert "had grown to 1024 of 2048 MiB" in heap_words(limit // 2, limit)
    assert "--chunks" in heap_words(limit, limit)
