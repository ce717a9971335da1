"""Decodes compressed weights: the `constexpr_*` operations, which have constant inputs only.

Each decoder takes the stored arrays (elements of fewer than eight bits as int8 or uint8) and returns the weight.
Arithmetic is in float32; a look-up table or the non-zero values keep the type in which they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdmobile.formats.mlprogram.blob import unpack_bits

Arrays = dict[str, np.ndarray]


class ConstexprError(ValueError):
    """Stored arrays that contradict the definition of the operation that decodes them."""


def affine_dequantize(arrays: Arrays) -> np.ndarray:
    """iOS 16: scale · (quantized_data − zero_point), both per tensor or along `axis`."""
    data = arrays["quantized_data"]
    axis = int(arrays["axis"])
    return (data.astype(np.float32) - _along(arrays["zero_point"], data, axis)) * _along(arrays["scale"], data, axis)


def blockwise_shift_scale(arrays: Arrays) -> np.ndarray:
    """iOS 18: scale[⌊i/b⌋] · (data[i] − offset[⌊i/b⌋]) with block sizes b = data.shape / scale.shape."""
    data, scale = arrays["data"], arrays["scale"]
    blocks, ones = _blocks(data.shape, scale.shape)
    values = data.astype(np.float32).reshape(blocks)
    if "offset" in arrays:
        if arrays["offset"].shape != scale.shape:
            raise ConstexprError(f"offset has the shape {arrays['offset'].shape}, scale {scale.shape}")
        values -= arrays["offset"].astype(np.float32).reshape(ones)
    values *= scale.astype(np.float32).reshape(ones)
    return values.reshape(data.shape)


def lut_to_dense_ios16(arrays: Arrays) -> np.ndarray:
    """iOS 16: lut[index], with indices of log2(len(lut)) bits packed into bytes."""
    lut, shape = arrays["lut"], _shape(arrays)
    bits = int(math.log2(lut.size))
    if lut.ndim != 1 or lut.size != 1 << bits or bits not in (1, 2, 4, 6, 8):
        raise ConstexprError(f"lut has the shape {lut.shape}, not 2, 4, 16, 64 or 256 entries")
    count = math.prod(shape)
    return lut[_unpack(arrays["indices"], bits, count)].reshape(shape)


def lut_to_dense_ios18(arrays: Arrays) -> np.ndarray:
    """iOS 18: lut[block of i, index[i]], one table per block, entries filled along `vector_axis`."""
    indices, lut = arrays["indices"], arrays["lut"]
    rank, entries, vector = indices.ndim, lut.shape[-2], lut.shape[-1]
    if lut.ndim != rank + 2:
        raise ConstexprError(f"lut has rank {lut.ndim}, indices {rank}")
    blocks, _ = _blocks(indices.shape, lut.shape[:-2])
    if entries < 256 and indices.size and int(indices.max()) >= entries:
        raise ConstexprError(f"index {int(indices.max())} of a table of {entries} entries")
    if vector > 1 and "vector_axis" not in arrays:
        raise ConstexprError("vector_axis is missing")
    # Indices with the axes of blocks in front: [tables, elements of a block].
    outer = list(range(0, 2 * rank, 2))
    inner = list(range(1, 2 * rank, 2))
    grouped = indices.reshape(blocks).transpose(outer + inner)
    shape = grouped.shape
    tables = lut.reshape(-1, entries, vector)
    flat = grouped.reshape(len(tables), -1)
    values = np.stack([table[row] for table, row in zip(tables, flat, strict=True)])
    order = np.argsort(outer + inner).tolist()
    dense = values.reshape(*shape, vector).transpose([*order, 2 * rank]).reshape(*indices.shape, vector)
    if vector == 1:
        return dense[..., 0]
    axis = int(arrays["vector_axis"]) % rank
    result_shape = list(indices.shape)
    result_shape[axis] *= vector
    return np.moveaxis(dense, -1, axis + 1).reshape(result_shape)


def sparse_to_dense_ios16(arrays: Arrays) -> np.ndarray:
    """iOS 16: the non-zero values at the set bits of a mask packed into bytes, 0 elsewhere."""
    shape = _shape(arrays)
    mask = _unpack(arrays["mask"], 1, math.prod(shape)).reshape(shape)
    return _scatter(arrays["nonzero_data"], mask)


def sparse_to_dense_ios18(arrays: Arrays) -> np.ndarray:
    """iOS 18: the non-zero values where the mask is 1, 0 elsewhere."""
    return _scatter(arrays["nonzero_data"], arrays["mask"])


def lut_to_sparse(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """iOS 18: the mask and the values of a table at the set positions of `indices_mask`."""
    mask = arrays["indices_mask"]
    dense = _scatter(arrays["indices_nonzero_data"], mask)
    tables = {name: arrays[name] for name in ("lut", "vector_axis") if name in arrays}
    values = lut_to_dense_ios18({"indices": dense, **tables})
    vector = arrays["lut"].shape[-1]
    if vector > 1:
        mask = np.repeat(mask, vector, axis=int(arrays["vector_axis"]))
    return mask, values[mask != 0]


def sparse_blockwise_shift_scale(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """iOS 18: the mask and scale · (value − offset) at its set positions."""
    mask = arrays["data_mask"]
    dense = _scatter(arrays["nonzero_data"], mask)
    scales = {name: arrays[name] for name in ("scale", "offset") if name in arrays}
    return mask, blockwise_shift_scale({"data": dense, **scales})[mask != 0]


def cast(arrays: Arrays) -> np.ndarray:
    """Conversion of float16 to float32."""
    return arrays["source_val"].astype(np.float32)


@dataclass(frozen=True)
class Decoder:
    """A decoder and the parameters it takes."""

    decode: Callable[[Arrays], np.ndarray | tuple[np.ndarray, np.ndarray]]
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


_EVERYWHERE = {
    "constexpr_affine_dequantize": Decoder(affine_dequantize, ("quantized_data", "zero_point", "scale", "axis")),
    "constexpr_cast": Decoder(cast, ("source_val", "output_dtype")),
}
_IOS16 = {
    "constexpr_lut_to_dense": Decoder(lut_to_dense_ios16, ("indices", "lut", "shape")),
    "constexpr_sparse_to_dense": Decoder(sparse_to_dense_ios16, ("nonzero_data", "mask", "shape")),
}
_IOS18 = {
    "constexpr_blockwise_shift_scale": Decoder(blockwise_shift_scale, ("data", "scale"), ("offset",)),
    "constexpr_lut_to_dense": Decoder(lut_to_dense_ios18, ("indices", "lut"), ("vector_axis",)),
    "constexpr_sparse_to_dense": Decoder(sparse_to_dense_ios18, ("nonzero_data", "mask")),
    "constexpr_lut_to_sparse": Decoder(
        lut_to_sparse, ("indices_mask", "indices_nonzero_data", "lut"), ("vector_axis",)
    ),
    "constexpr_sparse_blockwise_shift_scale": Decoder(
        sparse_blockwise_shift_scale, ("data_mask", "nonzero_data", "scale"), ("offset",)
    ),
}


def decoder(op_type: str, ios: int) -> Decoder | None:
    """Returns the decoder of an operation type in the operation set of an iOS version, or None."""
    return {**_EVERYWHERE, **(_IOS18 if ios >= 18 else _IOS16)}.get(op_type)


def _along(parameter: np.ndarray, data: np.ndarray, axis: int) -> np.ndarray:
    values = parameter.astype(np.float32)
    if values.ndim == 0:
        return values
    if values.shape != (data.shape[axis],):
        raise ConstexprError(f"{values.shape} parameters for {data.shape} along axis {axis}")
    shape = [1] * data.ndim
    shape[axis] = -1
    return values.reshape(shape)


def _blocks(shape: tuple[int, ...], counts: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Splits each size into (blocks, block size); returns also the shape with block sizes 1."""
    if len(shape) != len(counts) or any(c == 0 or s % c for s, c in zip(shape, counts, strict=True)):
        raise ConstexprError(f"{shape} is not divisible into {counts} blocks")
    pairs = list(zip(shape, counts, strict=True))
    return [n for s, c in pairs for n in (c, s // c)], [n for _, c in pairs for n in (c, 1)]


def _shape(arrays: Arrays) -> tuple[int, ...]:
    return tuple(int(size) for size in arrays["shape"])


def _unpack(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    if data.size != -(-count * bits // 8):
        raise ConstexprError(f"{data.size} bytes for {count} elements of {bits} bits")
    return unpack_bits(data.reshape(-1), bits, count)


def _scatter(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    chosen = mask != 0
    if values.size != int(np.count_nonzero(chosen)):
        raise ConstexprError(f"{values.size} values for {int(np.count_nonzero(chosen))} set bits")
    dense = np.zeros(mask.shape, values.dtype)
    dense[chosen] = values.reshape(-1)
    return dense
