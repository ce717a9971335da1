"""Histograms against NumPy's `unique`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdmobile.errors import CheckpointError
from sdmobile.quantize.palettes import bit_patterns, histogram

FINITE = hnp.arrays(
    np.float16, hnp.array_shapes(max_dims=3), elements=st.floats(width=16, allow_nan=False).filter(np.isfinite)
)


@given(FINITE)
def test_equals_numpy_unique(weight: np.ndarray) -> None:
    counted = histogram(bit_patterns(weight))
    values, counts = np.unique(weight.astype(np.float64) + 0.0, return_counts=True)
    assert np.array_equal(counted.values, values)
    assert np.array_equal(counted.counts, counts)
    assert counted.elements == weight.size


def test_every_finite_value_once() -> None:
    finite = np.arange(1 << 16, dtype=np.uint16)[np.isfinite(np.arange(1 << 16, dtype=np.uint16).view(np.float16))]
    counted = histogram(finite)
    assert len(counted.values) == 63_487  # 2 · 31 · 1024 finite bit patterns, of which the two zeros are one value
    assert np.all(np.diff(counted.values) > 0)
    assert dict(zip(counted.values, counted.counts, strict=True))[0.0] == 2


def test_more_elements_than_are_counted_at_once() -> None:
    weight = np.tile(np.array([0.5, -0.25, 0.5], np.float16), 800_000)
    counted = histogram(bit_patterns(weight))
    assert counted.values.tolist() == [-0.25, 0.5]
    assert counted.counts.tolist() == [800_000, 1_600_000]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(CheckpointError, match="1 are not"):
        histogram(bit_patterns(np.array([1.0, bad])))


def test_refuses_float32_that_overflows_float16() -> None:
    with pytest.raises(CheckpointError), np.errstate(over="ignore"):
        histogram(bit_patterns(np.array([1e6], np.float32)))
