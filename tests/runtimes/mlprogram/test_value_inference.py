"""Every operation that coremltools can compute itself, on random shapes and attributes, against the evaluator's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtimes.mlprogram.direct import evaluate, infer
from tests.runtimes.mlprogram.drawing import DRAWERS, KINDS, Drawn


@pytest.mark.parametrize("drawer", DRAWERS, ids=lambda drawer: drawer.__name__)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_coremltools_computes_the_same(drawer: Callable[[Any], Drawn], data: st.DataObject) -> None:
    kind, attributes = drawer(data.draw)
    assert kind in KINDS
    newest = kind in ("slice_update", "scaled_dot_product_attention")
    ios = 18 if newest else data.draw(st.sampled_from([17, 18] if kind == "quantize" else [16, 17, 18]))
    expected = infer(kind, attributes, ios)
    actual = evaluate(kind, attributes, ios, expected)
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape, (kind, attributes)
        # Two roundings of float16 conversions, else of float32 arithmetic.
        tolerance = 1e-3 if theirs.dtype == np.float16 else 2e-5
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=tolerance, atol=tolerance)


def test_coremltools_computes_no_exclusive_sum() -> None:
    """If this fails, coremltools has been mended and `drawing.along` may draw `exclusive`."""
    with pytest.raises(TypeError, match="dtype"):
        infer("cumsum", {"x": np.ones(3, np.float32), "axis": 0, "exclusive": True}, 17)


def test_coremltools_ignores_the_mode_of_scatter_along_axis() -> None:
    """Its documentation adds in mode "add"; if this fails, `drawing.gathering` may draw all modes."""
    attributes = {
        "data": np.array([1.0, 2.0], np.float32),
        "indices": np.array([1], np.int32),
        "updates": np.array([10.0], np.float32),
        "axis": 0,
        "mode": "add",
    }
    (theirs,) = infer("scatter_along_axis", attributes, 17)
    (ours,) = evaluate("scatter_along_axis", attributes, 17, [theirs])
    assert theirs.tolist() == [1.0, 10.0]
    assert ours.tolist() == [1.0, 12.0]
