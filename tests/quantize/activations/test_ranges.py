"""Streamed histograms against numpy on all data at once; clipping against brute force; scales against coremltools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.errors import UnsupportedError
from sdmobile.quantize.activations.ranges import LEVELS, PERCENTILE, Magnitudes, scale_for


def _streamed(parts: list[np.ndarray]) -> Magnitudes:
    found = Magnitudes()
    for part in parts:
        found.add(torch.from_numpy(part))
    return found


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(-8, 8), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_a_stream_is_one_histogram(seed: int, exponents: list[int]) -> None:
    rng = np.random.default_rng(seed)
    parts = [(rng.standard_normal(500) * 2.0**e).astype(np.float32) for e in exponents]
    found, everything = _streamed(parts), np.abs(np.concatenate(parts)).astype(np.float64)
    assert found.clip("max") == everything.max()
    expected, _ = np.histogram(everything, len(found.counts), (0.0, found.limit))
    assert np.array_equal(found.counts, expected)
    # An exact quantile lies within the bin that is cut at.
    width = found.limit / len(found.counts)
    cut = found.clip("percentile")
    assert np.mean(everything <= cut) >= PERCENTILE
    assert cut == found.peak or np.mean(everything <= cut - 1.01 * width) < PERCENTILE


@pytest.mark.parametrize("tail", [0.0, 20.0, 200.0])
def test_least_squares_against_brute_force(tail: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(50_000)
    if tail:
        x[:20] = tail

    def error(clip: float) -> float:
        scale = clip / LEVELS
        return float(np.mean(np.square(x - np.clip(np.round(x / scale), -LEVELS, LEVELS) * scale)))

    peak = float(np.abs(x).max())
    best = min(error(c) for c in np.geomspace(0.01 * peak, peak, 500))
    found = _streamed([x]).clip("mse")
    assert error(found) <= 1.03 * best
    # What clipping is for: a few outliers of medium size are cut off, far ones are worth their range.
    assert error(found) <= error(peak)


def test_zeros_and_what_is_not_finite() -> None:
    zeros = _streamed([np.zeros(7, np.float32), np.zeros(3, np.float32)])
    assert [zeros.clip(method) for method in ("max", "percentile", "mse")] == [0.0, 0.0, 0.0]
    assert zeros.counts.sum() == 10
    assert scale_for(0.0, "float16") == 1.0
    with pytest.raises(UnsupportedError, match="finite"):
        zeros.add(torch.tensor([1.0, float("inf")]))


@pytest.mark.parametrize(("low", "high"), [(-3.0, 5.0), (-1e-6, 0.0), (0.0, 60000.0), (-7.31, 0.2)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_scales_are_those_of_coremltools(low: float, high: float, dtype: str) -> None:
    from coremltools.converters.mil.mil import types
    from coremltools.optimize import _utils

    utils: Any = _utils
    stats = np.array([low, high], np.float32)
    _, scale, zero_point = utils.quantize_weight_by_dtype(stats, 0, types.int8, "LINEAR_SYMMETRIC")
    assert zero_point is None
    expected = float(np.asarray(scale).astype(dtype))
    assert scale_for(max(abs(low), abs(high)), dtype) == pytest.approx(max(expected, 2.0**-24), rel=1e-7)
