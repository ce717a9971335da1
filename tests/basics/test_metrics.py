from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdmobile.basics import metrics
from sdmobile.validate.thresholds import Limits

FINITE = st.floats(-1e4, 1e4, width=32)
ARRAYS = hnp.arrays(np.float32, st.integers(1, 64), elements=FINITE)


def apple_psnr(a: np.ndarray, b: np.ndarray) -> float:
    """The published definition, one term per line, in float64."""
    error = np.sqrt(((a - b) ** 2).sum() / b.size)
    return float(20 * np.log10((np.abs(b).max() + 1e-5) / (error + 1e-10)))


def test_psnr_known_value() -> None:
    reference = np.zeros(1000)
    reference[0] = 1.0
    converted = reference.copy()
    converted[1:11] += 0.01  # RMSE = 0.01·√(10/1000) = 1e-3, peak 1
    assert metrics.psnr(reference, converted) == pytest.approx(60.0, abs=1e-3)
    assert metrics.snr(reference, converted) == pytest.approx(20 * math.log10(math.sqrt(1 / 1000) / 1e-3), abs=1e-4)
    assert metrics.max_abs(reference, converted) == pytest.approx(0.01)
    assert metrics.rmse(reference, converted) == pytest.approx(1e-3)


def test_psnr_takes_the_peak_of_the_converted_output() -> None:
    assert metrics.psnr([1.0, 0.0], [2.0, 0.0]) == pytest.approx(apple_psnr(np.array([1.0, 0.0]), np.array([2.0, 0.0])))
    assert metrics.psnr([1.0, 0.0], [2.0, 0.0]) != pytest.approx(metrics.psnr([2.0, 0.0], [1.0, 0.0]))


def test_gaussian_noise_gives_the_expected_decibels() -> None:
    rng = np.random.default_rng(0)
    signal = rng.uniform(-1, 1, 200_000)
    noisy = signal + rng.normal(0, 1e-2, signal.size)
    assert metrics.psnr(signal, noisy) == pytest.approx(20 * math.log10(np.abs(noisy).max() / 1e-2), abs=0.05)
    assert metrics.snr(signal, noisy) == pytest.approx(20 * math.log10(math.sqrt(1 / 3) / 1e-2), abs=0.05)


def test_accumulates_in_float64() -> None:
    # 2²⁴ + 1 ones do not sum to 2²⁴ + 1 in float32.
    reference = np.full(2**22, 1000.0, np.float32)
    converted = reference + np.float32(0.25)
    assert metrics.rmse(reference, converted) == pytest.approx(0.25, rel=1e-12)


def test_image_psnr_is_of_clipped_unit_pixels() -> None:
    reference, converted = np.zeros((1, 3, 4, 4)), np.full((1, 3, 4, 4), 0.2)
    assert metrics.image_psnr(reference, converted) == pytest.approx(20.0, abs=1e-6)  # 0.1 in [0, 1]
    assert metrics.image_psnr(np.full(4, 1.0), np.full(4, 5.0)) == pytest.approx(200.0)  # both clip to white


@settings(deadline=None)
@given(a=ARRAYS, seed=st.integers(0, 1000))
def test_psnr_is_apples_formula(a: np.ndarray, seed: int) -> None:
    b = a + np.random.default_rng(seed).normal(0, 1, a.shape)
    assert metrics.psnr(a, b) == pytest.approx(apple_psnr(a.astype(np.float64), b), abs=1e-9)


@settings(deadline=None)
@given(a=ARRAYS)
def test_equal_arrays_are_perfect_and_finite(a: np.ndarray) -> None:
    result = metrics.compare(a, a)
    assert result.max_abs == 0.0
    assert result.cosine == pytest.approx(1.0)
    assert result.non_finite == 0
    # The bound is set by the two constants: 100 dB for a zero output, more for a larger one.
    assert result.psnr_db >= 100.0 - 1e-9
    assert math.isfinite(result.psnr_db)
    assert math.isfinite(result.snr_db)


@settings(deadline=None)
@given(a=ARRAYS, scale=st.floats(1e-3, 1e3), step=st.floats(1e-2, 10.0))
def test_more_noise_is_never_better(a: np.ndarray, scale: float, step: float) -> None:
    direction = np.random.default_rng(a.size).choice([-1.0, 1.0], a.shape)
    near, far = a + scale * direction, a + scale * (1 + step) * direction
    assert metrics.snr(a, far) < metrics.snr(a, near)
    assert metrics.max_abs(a, far) > metrics.max_abs(a, near)


@settings(deadline=None)
@given(a=ARRAYS, factor=st.floats(0.01, 100.0))
def test_cosine_ignores_scale_and_sees_sign(a: np.ndarray, factor: float) -> None:
    if not np.any(a):
        return
    b = a.astype(np.float64) * factor
    assert metrics.cosine(a, b) == pytest.approx(1.0, abs=1e-9)
    assert metrics.cosine(a, -b) == pytest.approx(-1.0, abs=1e-9)


def test_cosine_of_zeros() -> None:
    assert metrics.cosine([0.0, 0.0], [0.0, 0.0]) == 1.0
    assert metrics.cosine([0.0, 0.0], [1.0, 0.0]) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_output_never_passes(bad: float) -> None:
    reference, converted = np.ones(10), np.ones(10)
    converted[3] = bad
    result = metrics.compare(reference, converted)
    assert result.non_finite == 1
    assert math.isnan(result.psnr_db)
    assert not Limits().component_passes(result)
    assert not Limits(non_finite=5).component_passes(result)
    assert result.to_json()["psnr_db"] is None


def test_a_non_finite_reference_never_passes() -> None:
    assert not Limits().component_passes(metrics.compare([math.nan, 1.0], [1.0, 1.0]))


def test_worst_takes_each_figure_separately() -> None:
    rows = [metrics.Metrics(50.0, 40.0, 0.1, 0.99, 0), metrics.Metrics(60.0, 30.0, 0.2, 0.98, 2)]
    assert metrics.worst(rows) == metrics.Metrics(50.0, 30.0, 0.2, 0.98, 2)
    assert math.isnan(metrics.worst([*rows, metrics.Metrics(math.nan, 1, 1, 1, 1)]).psnr_db)
    with pytest.raises(ValueError, match="worst of no metrics"):
        metrics.worst([])


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        metrics.psnr(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="at least one"):
        metrics.rmse([], [])


def test_threshold_is_inclusive() -> None:
    exactly = metrics.Metrics(35.0, 0, 0, 0, 0)
    assert Limits().component_passes(exactly)
    assert not Limits(component_db=35.01).component_passes(exactly)
    assert Limits().image_passes(35.0, -1.0, 0)
    assert not Limits().image_passes(math.nan, 1.0, 0)
    assert not Limits().image_passes(80.0, 1.0, 1)
    assert not Limits().image_passes(80.0, math.nan, 0)
    assert not Limits(image_ssim=0.9).image_passes(80.0, 0.89, 0)
