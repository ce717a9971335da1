"""Decoders of compressed weights against coremltools' decompression of the same arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.formats.mlprogram.blob import unpack_bits
from sdmobile.runtimes.mlprogram import constexpr, palette

WIDTHS = (1, 2, 3, 4, 6, 8)


def _compression() -> Any:
    from coremltools.converters.mil.mil.ops.defs.iOS18 import compression

    return compression


@given(st.sampled_from(WIDTHS), st.integers(0, 50), st.integers(0, 2**32 - 1))
def test_unpacking_reverses_packing_into_a_stream_of_bits(bits: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, count)
    stream = [(int(value) >> i) & 1 for value in values for i in range(bits)]
    packed = np.packbits(np.array(stream, np.uint8), bitorder="little")
    np.testing.assert_array_equal(unpack_bits(packed, bits, count), values)


@given(st.lists(st.integers(-8, 7), max_size=20))
def test_int4_is_twos_complement(values: list[int]) -> None:
    nibbles = np.array([value & 15 for value in values] + [0] * (len(values) % 2), np.uint8)
    packed = nibbles[0::2] | nibbles[1::2] << 4
    unpacked = unpack_bits(packed, 4, len(values), signed=True)
    assert unpacked.dtype == np.int8
    assert unpacked.tolist() == values


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=3),
    st.sampled_from([1, 2, 3, 4, 6, 8]),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_tables_per_block_with_vectors(blocks: list[tuple[int, int]], bits: int, vector: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = [count for count, _ in blocks]
    indices = random.integers(0, 1 << bits, [count * size for count, size in blocks]).astype(np.uint8)
    lut = random.standard_normal([*counts, 1 << bits, vector]).astype(np.float16)
    axis = int(random.integers(len(blocks)))
    arrays = {"indices": indices, "lut": lut, "vector_axis": np.int32(axis)}
    expected = _compression().constexpr_lut_to_dense.decompress(indices, lut, axis)
    np.testing.assert_array_equal(constexpr.lut_to_dense_ios18(arrays), expected)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_blockwise_scales_and_offsets(blocks: list[tuple[int, int]], with_offset: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = [count for count, _ in blocks]
    data = random.integers(-8, 8, [count * size for count, size in blocks]).astype(np.int8)
    scale = random.standard_normal(counts).astype(np.float32)
    offset = random.integers(-8, 8, counts).astype(np.int8) if with_offset else None
    arrays = {"data": data, "scale": scale} | ({} if offset is None else {"offset": offset})
    expected = _compression().constexpr_blockwise_shift_scale.decompress(data, scale, offset)
    np.testing.assert_allclose(constexpr.blockwise_shift_scale(arrays), expected, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([1, 2, 4, 6, 8]), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_ios16_tables_and_masks(bits: int, shape: list[int], seed: int) -> None:
    from coremltools.converters.mil.mil.ops.defs.iOS16 import constexpr_ops

    random = np.random.default_rng(seed)
    size = np.array(shape, np.uint32)
    count = math.prod(shape)
    packed = random.integers(0, 256, -(-count * bits // 8)).astype(np.uint8)
    lut = random.standard_normal(1 << bits).astype(np.float16)
    expected = constexpr_ops.constexpr_lut_to_dense.decompress(lut, packed, size)
    np.testing.assert_array_equal(
        constexpr.lut_to_dense_ios16({"indices": packed, "lut": lut, "shape": size}), expected
    )
    bits_set = random.integers(0, 2, count).astype(np.uint8)
    mask = np.packbits(bits_set, bitorder="little")
    values = random.standard_normal(int(bits_set.sum())).astype(np.float16)
    dense = np.zeros(count, np.float16)
    dense[bits_set == 1] = values
    arrays = {"nonzero_data": values, "mask": mask, "shape": size}
    np.testing.assert_array_equal(constexpr.sparse_to_dense_ios16(arrays), dense.reshape(shape))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_affine_along_an_axis(axis: int) -> None:
    from coremltools.converters.mil.mil.ops.defs.iOS16 import constexpr_ops

    random = np.random.default_rng(0)
    data = random.integers(-128, 128, (3, 4, 5)).astype(np.int8)
    scale = random.standard_normal(data.shape[axis]).astype(np.float32)
    zero = random.integers(-128, 128, data.shape[axis]).astype(np.int8)
    arrays = {"quantized_data": data, "zero_point": zero, "scale": scale, "axis": np.int32(axis)}
    expected = constexpr_ops.constexpr_affine_dequantize.decompress(data, zero, scale, axis)
    np.testing.assert_allclose(constexpr.affine_dequantize(arrays), expected, rtol=1e-6)


def test_sparse_tables_and_scales_give_the_written_examples() -> None:
    mask = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0]], np.uint8)
    indices = np.array([0, 1, 1, 0, 1, 1, 0, 0, 1], np.uint8)
    lut = np.array([2.0, 3.0], np.float16).reshape(1, 1, 2, 1)
    out_mask, values = constexpr.lut_to_sparse({"indices_mask": mask, "indices_nonzero_data": indices, "lut": lut})
    np.testing.assert_array_equal(out_mask, mask)
    assert values.tolist() == [2, 3, 3, 2, 3, 3, 2, 2, 3]

    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]], np.uint8)
    arrays = {
        "data_mask": mask,
        "nonzero_data": np.array([10, 11, 3, 4, 5, 6, 7, 8, 9], np.int8),
        "scale": np.array([[0.1, 0.2, 0.3, 0.4]], np.float32),
        "offset": np.array([[1, 2, 3, 4]], np.int8),
    }
    _, values = constexpr.sparse_blockwise_shift_scale(arrays)
    np.testing.assert_allclose(values, [0.9, 1.8, 0.2, 0.4, 0.6, 0.9, 1.2, 0.7, 1.4], rtol=1e-6)


def test_contradictions_are_errors() -> None:
    with pytest.raises(constexpr.ConstexprError, match="index 3"):
        constexpr.lut_to_dense_ios18({"indices": np.array([3], np.uint8), "lut": np.zeros((1, 2, 1), np.float16)})
    with pytest.raises(constexpr.ConstexprError, match="not divisible"):
        constexpr.blockwise_shift_scale({"data": np.zeros((3,), np.int8), "scale": np.zeros((2,), np.float32)})
    with pytest.raises(constexpr.ConstexprError, match="2 values for 1"):
        constexpr.sparse_to_dense_ios18({"nonzero_data": np.ones(2, np.float16), "mask": np.array([1, 0], np.uint8)})


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([1, 2, 3, 4, 6, 8]), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_sparse_tables_with_vectors(bits: int, groups: int, vector: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.integers(0, 2, (2 * groups, 3)).astype(np.uint8)
    indices = random.integers(0, 1 << bits, int(mask.sum())).astype(np.uint8)
    lut = random.standard_normal((groups, 1, 1 << bits, vector)).astype(np.float16)
    axis = int(random.integers(2))
    theirs = _compression().constexpr_lut_to_sparse.decompress(mask, indices, lut, axis)
    arrays = {"indices_mask": mask, "indices_nonzero_data": indices, "lut": lut, "vector_axis": np.int32(axis)}
    for ours, wanted in zip(constexpr.lut_to_sparse(arrays), theirs, strict=True):
        np.testing.assert_array_equal(ours, wanted)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_sparse_scales(groups: int, with_offset: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.integers(0, 2, (2 * groups, 3)).astype(np.uint8)
    values = random.integers(-8, 8, int(mask.sum())).astype(np.int8)
    scale = random.standard_normal((groups, 3)).astype(np.float32)
    offset = random.integers(-8, 8, (groups, 3)).astype(np.int8) if with_offset else None
    theirs = _compression().constexpr_sparse_blockwise_shift_scale.decompress(mask, values, scale, offset)
    arrays = {"data_mask": mask, "nonzero_data": values, "scale": scale} | ({"offset": offset} if with_offset else {})
    ours = constexpr.sparse_blockwise_shift_scale({name: array for name, array in arrays.items() if array is not None})
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("groups", [1, 3])
def test_palettes_looked_up_by_words_are_those_looked_up_one_by_one(bits: int, groups: int) -> None:
    random = np.random.default_rng(bits)
    shape = (groups * 8, 4096)
    indices = random.integers(0, 1 << bits, shape)
    stream = (indices.reshape(-1, 1) >> np.arange(bits) & 1).astype(np.uint8).reshape(-1)
    packed = np.packbits(stream, bitorder="little")
    lut = random.standard_normal((groups, 1, 1 << bits, 1)).astype(np.float16)
    fast = palette.packed_lookup(packed, bits, lut, shape)
    arrays = {"indices": unpack_bits(packed, bits, indices.size).reshape(shape), "lut": lut}
    assert fast is not None
    np.testing.assert_array_equal(fast, constexpr.lut_to_dense_ios18(arrays))


def test_small_or_uneven_palettes_go_the_plain_way() -> None:
    lut = np.zeros((1, 1, 64, 1), np.float16)
    assert palette.packed_lookup(np.zeros(48, np.uint8), 6, lut, (8, 8)) is None
    assert palette.packed_lookup(np.zeros(98307 * 6 // 8 + 1, np.uint8), 6, lut, (3, 32769)) is None
