"""The scan's counts against NumPy's own rounding to float16."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from sdmobile.basics.float16 import ROUNDS_TO_INFINITY, ROUNDS_TO_ZERO, scan, warnings_for

magnitudes = st.one_of(
    st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    st.floats(-(2.0**-20), 2.0**-20, width=32, allow_subnormal=False),
    st.sampled_from([0.0, 65504.0, 65519.0, 65520.0, -65520.0, ROUNDS_TO_ZERO, -ROUNDS_TO_ZERO, 2.0**-24, 3e-8]),
)


@given(npst.arrays(np.float32, st.integers(1, 20), elements=magnitudes))
@settings(max_examples=200, deadline=None)
def test_counts_are_those_of_the_cast(values: np.ndarray) -> None:
    with np.errstate(over="ignore", under="ignore"):
        half = values.astype(np.float16)
    overflow = int(np.isinf(half).sum())
    flushed = int(((half == 0) & (values != 0)).sum())
    found = scan([("w", torch.from_numpy(values))])
    assert [(f.overflow, f.flushed) for f in found] == ([(overflow, flushed)] if overflow or flushed else [])


@pytest.mark.parametrize(("value", "overflow"), [(65504.0, 0), (65519.99, 0), (ROUNDS_TO_INFINITY, 1), (1e9, 1)])
def test_the_edge_of_the_range(value: float, overflow: int) -> None:
    losses = scan([("w", torch.tensor([1.0, value]))])
    assert sum(loss.overflow for loss in losses) == overflow
    assert len(warnings_for(losses)) == overflow


@given(npst.arrays(np.float32, st.integers(1, 20), elements=magnitudes), st.sampled_from(["float64", "float16"]))
@settings(max_examples=100, deadline=None)
def test_arrays_and_tensors_are_scanned_alike(values: np.ndarray, other: str) -> None:
    with np.errstate(over="ignore"):
        kinds = (values, values.astype(other), values.reshape(1, -1)[:, ::2])
    for array in kinds:
        assert scan([("w", array)]) == scan([("w", torch.from_numpy(array.copy()))])
    assert scan([("w", values)]) == scan([("w", values.astype(np.float64))])


def test_what_is_long_is_scanned_whole() -> None:
    values = np.ones(200_001, np.float32)
    values[[0, 70_000, -1]] = 1e5, 1e-9, 2e5
    (loss,) = scan([("w", values)])
    assert (loss.elements, loss.overflow, loss.flushed, loss.max_abs) == (200_001, 2, 1, 200_000.0)


def test_integer_and_empty_tensors_are_passed_over() -> None:
    assert scan([("ids", torch.tensor([1 << 20])), ("empty", torch.empty(0))]) == []
    assert scan([("ids", np.array([1 << 20])), ("empty", np.empty(0))]) == []
