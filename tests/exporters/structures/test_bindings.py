"""Each transform against NumPy written out, and what travels through JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdmobile.errors import UnsupportedError
from sdmobile.exporters.structures.bindings import Binding
from sdmobile.rewrites.winograd.conv import transform_bias, transform_weight
from sdmobile.rewrites.winograd.transforms import transforms


def _draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@given(st.permutations(range(4)), st.sampled_from(["float16", "float32"]))
def test_moves_are_those_of_numpy_whenever_the_cast_comes(axes: list[int], dtype: str) -> None:
    array = _draw(2, 3, 4, 5)
    binding = Binding(("w",), (("permute", tuple(axes)), ("reshape", (120,))), dtype)
    expected = array.transpose(axes).reshape(120).astype(dtype)
    assert np.array_equal(binding.value([array]), expected)
    assert np.array_equal(binding.value([array.astype(dtype)]), expected)


def test_parts_and_joins_undo_each_other() -> None:
    array = _draw(6, 4)
    halves = [Binding(("w",), (("part", 0, start, start + 3),), "float32").value([array]) for start in (0, 3)]
    joined = Binding(("a", "b"), (("concatenate", 0),), "float32").value(halves)
    assert np.array_equal(joined, array)


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_a_scale_is_rounded_in_the_precision_that_it_names(precision: str) -> None:
    array = _draw(64)
    found = Binding(("w",), (("scale", 0.1767766952966369, precision),), "float16").value([array])
    kind = getattr(torch, precision)
    expected = (torch.from_numpy(array).to(kind) * torch.tensor(0.1767766952966369, dtype=kind)).half().numpy()
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, (array.astype(np.float64) * 0.1767766952966369 * 1.001).astype(np.float16))


@pytest.mark.parametrize("tile", [2, 4])
def test_winograd_is_that_of_the_rule(tile: int) -> None:
    weight, bias = _draw(5, 3, 3, 3), _draw(5, seed=1)
    u = Binding(("w",), (("winograd", tile, "weight"),), "float32").value([weight])
    assert np.array_equal(u, transform_weight(torch.from_numpy(weight), transforms(tile)).float().numpy()[:, :, 0, 0])
    spread = Binding(("b",), (("winograd", tile, "bias"),), "float32").value([bias])
    assert np.array_equal(spread, transform_bias(torch.from_numpy(bias), transforms(tile)).numpy())


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("permute"), st.permutations(range(3)).map(tuple)),
        st.tuples(st.just("reshape"), st.tuples(st.integers(1, 9), st.integers(1, 9))),
        st.tuples(st.just("part"), st.integers(0, 2), st.integers(0, 5), st.integers(6, 9)),
        st.tuples(st.just("scale"), st.floats(0.01, 10), st.sampled_from(["float16", "float32"])),
    ),
    max_size=4,
).map(tuple)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3).map(tuple), _STEPS)
def test_a_binding_travels_through_json(names: tuple[str, ...], steps: Any) -> None:
    binding = Binding(names, steps, "float16")
    assert Binding.from_json(json.loads(json.dumps(binding.to_json()))) == binding


def test_an_unknown_step_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="closed_source"):
        Binding.from_json([["w"], [["closed_source"]], "float16"])
