"""Palettes against their definition, other clusterers and what a file needs; histograms against NumPy's `unique`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.quantize.palettes import bit_patterns, histogram, palettize
from sdmobile.quantize.schemes import Palette

WEIGHTS = hnp.arrays(
    np.float16, st.tuples(st.sampled_from([2, 4]), st.integers(1, 12)), elements=st.floats(-8, 8, width=16)
)


def _weight(*shape: int, seed: int = 0, scale: float = 0.02) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float16)


def _mse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))


@given(WEIGHTS, st.sampled_from([1, 2, 3, 8]), st.sampled_from([0, 2]))
@settings(max_examples=80, deadline=None)
def test_each_element_takes_the_nearest_entry(weight: np.ndarray, bits: int, group: int) -> None:
    encoding = palettize(weight, Palette(bits, group))  # type: ignore[arg-type]
    rows = weight.reshape(len(encoding.lut), -1).astype(np.float64)
    nearest = np.min((rows[:, :, None] - encoding.lut[:, None].astype(np.float64)) ** 2, axis=2)
    assert encoding.mse == pytest.approx(float(np.mean(nearest)), rel=1e-9, abs=1e-30)
    assert _mse(weight, encoding.decode()) == pytest.approx(encoding.mse, rel=1e-9, abs=1e-30)
    assert int(encoding.indices.max()) < 1 << bits


@given(WEIGHTS, st.sampled_from([1, 2, 3]))
@settings(max_examples=60, deadline=None)
def test_rounded_centroids_stay_distinct(weight: np.ndarray, bits: int) -> None:
    table = palettize(weight, Palette(bits)).lut[0]  # type: ignore[arg-type]
    distinct = len(np.unique(weight.astype(np.float32) + 0))
    assert len(np.unique(table)) == min(distinct, 1 << bits)
    assert np.all(np.diff(table.astype(np.float32)) >= 0)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_error_and_size(bits: int) -> None:
    """A Gaussian's best 2**bits levels have 1.5 · 2**(−2 · bits) to π√3/2 · 2**(−2 · bits) of its variance as error."""
    weight = _weight(64, 512, scale=1.0)
    encoding = palettize(weight, Palette(bits))  # type: ignore[arg-type]
    share = encoding.mse / float(np.var(weight.astype(np.float64))) * 4**bits
    assert 1.4 < share < np.pi * 3**0.5 / 2
    assert encoding.stored_bytes == weight.size * bits // 8 + 2 * 2**bits
    assert encoding.lut.shape == (1, 2**bits)


def test_max_lloyd_table_of_a_gaussian() -> None:
    """Four levels of a normal density are ±0.4528 and ±1.510 with error 0.1175 (Max, 1960)."""
    encoding = palettize(_weight(1024, 1024, scale=1.0), Palette(2))
    assert encoding.lut[0].astype(float).tolist() == pytest.approx([-1.510, -0.4528, 0.4528, 1.510], abs=0.005)
    assert encoding.mse == pytest.approx(0.1175, abs=0.0005)


def test_groups_are_tables_of_their_own() -> None:
    weight = np.concatenate([_weight(16, 40, seed=1), _weight(16, 40, seed=2, scale=2.0)])
    grouped = palettize(weight, Palette(4, 16))
    for row, part in enumerate(np.split(weight, 2)):
        alone = palettize(part, Palette(4))
        assert np.array_equal(grouped.lut[row], alone.lut[0])
        assert np.array_equal(grouped.indices[16 * row : 16 * row + 16], alone.indices)
    assert grouped.stored_bytes == weight.size // 2 + 2 * 16 * 2
    assert grouped.mse < palettize(weight, Palette(4)).mse


def test_order_of_elements_does_not_matter() -> None:
    weight = _weight(32, 3, 3, 3)
    order = np.random.default_rng(1).permutation(weight.size)
    base, shuffled = palettize(weight, Palette(4)), palettize(weight.reshape(-1)[order].reshape(32, 27), Palette(4))
    assert np.array_equal(base.lut, shuffled.lut)
    assert np.array_equal(base.indices.reshape(-1)[order], shuffled.indices.reshape(-1))


def test_scaling_by_a_power_of_two_scales_the_table() -> None:
    weight = _weight(32, 64, scale=1.0)
    weight[np.abs(weight) < 0.01] = 0.01  # none becomes subnormal below
    base, scaled = palettize(weight, Palette(4)), palettize(weight * np.float16(2**-6), Palette(4))
    assert np.array_equal(scaled.lut, base.lut * np.float16(2**-6))
    assert np.array_equal(scaled.indices, base.indices)


@pytest.mark.parametrize("value", [0.0, -0.0, 0.5, 65504.0, 6e-8])
def test_constant_weights_are_kept_exactly(value: float) -> None:
    encoding = palettize(np.full((4, 4), value, np.float16), Palette(2))
    assert np.array_equal(encoding.decode(), np.full((4, 4), value, np.float16))
    assert encoding.mse == 0


def test_few_values_are_kept_exactly() -> None:
    weight = np.array([[1.5, -2, 0.25, -0.0], [0, 1.5, 1.5, -2]], np.float16)
    assert np.array_equal(palettize(weight, Palette(2)).decode(), weight)


def test_float32_is_rounded_to_float16_first() -> None:
    weight = np.random.default_rng(2).standard_normal((16, 16)).astype(np.float32)
    single, half = palettize(weight, Palette(3)), palettize(weight.astype(np.float16), Palette(3))
    assert np.array_equal(single.lut, half.lut)
    assert single.mse == half.mse


def test_refusals() -> None:
    with pytest.raises(UnsupportedError, match="multiple of the group size 4"):
        palettize(_weight(6, 2), Palette(4, 4))
    with pytest.raises(UnsupportedError):
        palettize(np.zeros((0, 3), np.float16), Palette(4))
    with pytest.raises(CheckpointError):
        palettize(np.array([[np.nan, 1]], np.float16), Palette(4))


@pytest.mark.parametrize(("shape", "bits"), [((32, 40), 4), ((40, 40, 3, 3), 4), ((40, 40, 3, 3), 6), ((24, 100), 6)])
def test_never_worse_than_coremltools(shape: tuple[int, ...], bits: int) -> None:
    """coremltools clusters with its copy of kmeans1d from 10,000 float16 elements, below with scikit-learn."""
    from coremltools.models.neural_network import quantization_utils as utils

    weight = _weight(*shape)
    table, codes = utils._get_kmeans_lookup_table_and_weight(bits, weight)
    theirs = np.asarray(table).astype(np.float16).reshape(-1)[np.asarray(codes).reshape(-1)].reshape(shape)
    ours = palettize(weight, Palette(bits))  # type: ignore[arg-type]
    # Their elements stay in the cluster of the exact centroid; rounding the table can move either by this much.
    assert ours.mse <= _mse(weight, theirs) * (1 + 1e-4)


FINITE = hnp.arrays(
    np.float16, hnp.array_shapes(max_dims=3), elements=st.floats(width=16, allow_nan=False).filter(np.isfinite)
)


@given(FINITE)
def test_equals_numpy_unique(weight: np.ndarray) -> None:
    counted = histogram(bit_patterns(weight))
    values, counts = np.unique(weight.astype(np.float64) + 0.0, return_counts=True)
    assert np.array_equal(counted.values, values)
    assert np.array_equal(counted.counts, counts)


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
