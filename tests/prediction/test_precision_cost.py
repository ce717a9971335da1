"""What an Android GPU's other precisions cost: bounds from the engine's rules, against counts made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sdmobile.device_profiles import load_profile
from sdmobile.device_profiles.runtime_rules.kernel import Kernel
from sdmobile.device_profiles.runtime_rules.winograd import Gpu
from sdmobile.formats.bundle.reading import Bundle
from sdmobile.prediction.assess import assess
from sdmobile.prediction.assess_device import ChosenUnit, choose_unit
from sdmobile.prediction.kernels.conv_generic import FULL_WAVE, convolution_work
from sdmobile.prediction.kernels.google_gpu import ml_drift_kernels
from sdmobile.prediction.precision_cost import PrecisionCost, image_costs, precision_costs
from tests.prediction.assessed import sd15
from tests.prediction.small_graphs import Small

__all__ = ["sd15"]


@pytest.fixture
def phone() -> ChosenUnit:
    return choose_unit("galaxy-s23-ultra")


def _product(kernels: Sequence[Kernel]) -> Kernel:
    (found,) = [kernel for kernel in kernels if kernel.category == "matmul"]
    return found


def test_the_bounds_are_in_order(sd15: Bundle, phone: ChosenUnit) -> None:
    assessment = assess(sd15, phone)
    for part in assessment.components:
        half, sums, full = part.precisions
        assert half.least == half.most == pytest.approx(part.prediction.seconds)
        assert half.most <= sums.least < sums.most
        assert sums.least < full.least <= full.most
        assert sums.most < full.most
    names = [one.precision for one in assessment.precisions]
    assert names == ["FP16", "FP16_WITH_FP32_ACCUM", "FP32"]
    assert assessment.image is not None
    assert assessment.precisions[0].least == pytest.approx(assessment.image.seconds)
    json = assessment.to_json()
    assert json["precisions"]["FP32"]["most_seconds"] == assessment.precisions[2].most
    assert json["components"]["unet"]["precisions"]["FP16"]["predicted"] is True


def test_with_float32_sums_a_block_grows_at_half_as_many_work_items() -> None:
    draft = Small()
    image = draft.input(1, 48, 64, 64)
    graph = draft.graph(draft.conv(image, 24, kernel=1))
    steps, shape = 16, (1, 48, 64, 24)  # 24 waves of 128 a compute unit, 48 of 64
    half, sums = (_product(ml_drift_kernels(graph, Gpu.ADRENO_7XX, 2, half_sums=one)) for one in (True, False))
    assert half.fetches == convolution_work(Gpu.ADRENO_7XX, shape, steps).fetches
    assert sums.fetches == convolution_work(Gpu.ADRENO_7XX, shape, steps, wave=FULL_WAVE).fetches
    assert (half.threads, sums.threads) == (32 * 48 * 3, 32 * 24 * 3)  # 2×1×2, and 2×2×2
    assert half.bytes == sums.bytes


def test_a_float32_run_has_float32_waves_and_twice_the_bytes() -> None:
    draft = Small()
    image = draft.input(1, 48, 64, 64)
    graph = draft.graph(draft.conv(image, 24, kernel=1))
    sums = _product(ml_drift_kernels(graph, Gpu.ADRENO_7XX, 2, half_sums=False))
    full = _product(ml_drift_kernels(graph, Gpu.ADRENO_7XX, 4))
    assert full.fetches == sums.fetches
    assert full.bytes == 2 * sums.bytes


def test_the_fused_attention_is_for_float16_alone(sd15: Bundle, phone: ChosenUnit) -> None:
    graph = assess(sd15, phone).components[1].graphs[0]
    runs = ((2, True), (2, False), (4, False))
    fused = [
        [k for k in ml_drift_kernels(graph, Gpu.ADRENO_7XX, size, half_sums=half) if k.category == "attention"]
        for size, half in runs
    ]
    assert fused[0]
    assert fused[1:] == [[], []]


def test_the_bounds_are_those_of_the_equation(phone: ChosenUnit) -> None:
    """One product of 1×1: in FP32, its fetches at the rate of float16 or half of it, and twice the bytes."""
    draft = Small()
    image = draft.input(1, 48, 64, 64)
    graph = draft.graph(draft.conv(image, 24, kernel=1))
    parameters = phone.model.parameters
    kernels = ml_drift_kernels(graph, Gpu.ADRENO_7XX, 4)
    for slower, found in ((1, "least"), (2, "most")):
        wanted = parameters.fixed
        for kernel in kernels:
            compute = kernel.fetches / parameters.fetch_rate["matmul"] if kernel.category == "matmul" else 0.0
            wanted += max(slower * compute, kernel.bytes / parameters.bandwidth) + kernel.launches * parameters.dispatch
        assert getattr(precision_costs([graph], phone)[2], found) == pytest.approx(wanted)


def test_units_without_a_choice_have_none(sd15: Bundle, phone: ChosenUnit) -> None:
    graphs = assess(sd15, phone).components[1].graphs
    assert precision_costs(graphs, ChosenUnit(load_profile("galaxy-s23-ultra"), "tflite-gpu")) == ()
    unit = phone.unit.model_copy(update={"element_bytes": 4})
    profile = phone.profile.model_copy(update={"units": {**phone.profile.units, "gpu": unit}})
    assert precision_costs(graphs, replace(phone, profile=profile)) == ()


def test_an_image_is_the_sum_of_its_calls() -> None:
    one, two = (PrecisionCost("FP32", 1.0, 2.0),), (PrecisionCost("FP32", 0.5, 0.5),)
    assert image_costs([(20, one), (0, ()), (1, two)]) == (PrecisionCost("FP32", 20.5, 40.5),)
    assert image_costs([(20, one), (1, ())]) == ()
    assert image_costs([]) == ()
