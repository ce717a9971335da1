"""Integers with a scale per output channel or per block of input channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.quantize.schemes import Linear

_AT_ONCE = 1 << 22
_SMALLEST_SCALE = np.float16(2.0**-24)


@dataclass(frozen=True, eq=False)
class LinearEncoding:
    """A weight as integers: w ≈ scale · (data − offset), computed in float32 and rounded to float16.

    Args:
        data: integers, int8 (symmetric) or uint8, of the weight's shape.
        scale: float16, of the weight's rank; the weight's sizes are multiples of its sizes.
        offset: as `data`, of the shape of `scale`; None if symmetric.
        bits: 4 or 8.
        mse: mean squared error of the decoded weight.
    """

    data: NDArray[Any]
    scale: NDArray[np.float16]
    offset: NDArray[np.uint8] | None
    bits: int
    mse: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.data.shape

    @property
    def stored_bytes(self) -> int:
        """Bytes of integers, scales and offsets."""
        offsets = 0 if self.offset is None else -(-self.offset.size * self.bits // 8)
        return -(-self.data.size * self.bits // 8) + self.scale.nbytes + offsets

    def decode(self) -> NDArray[np.float16]:
        """Returns the weight as the phone computes it."""
        result = np.empty(self.shape, np.float16)
        for rows in _slices(self.shape):
            offset = None if self.offset is None else self.offset[rows]
            result[rows] = _decoded(self.data[rows], self.scale[rows], offset)
        return result


def quantize_linear(weight: NDArray[Any], scheme: Linear) -> LinearEncoding:
    """Rounds a weight to integers.

    scale = max|w| / (2^(b−1) − 1) if symmetric, else (max(w, 0) − min(w, 0)) / (2^b − 1), rounded to float16 before
    the integers are chosen, so that these fit the scale that is stored.

    Args:
        weight: [output channels, input channels, ...], float16 or float32, finite.
        scheme: width and granularity.

    Raises:
        UnsupportedError: the input channels are not a multiple of the block size.
    """
    counts = scale_shape(weight.shape, scheme.block_size)
    data = np.empty(weight.shape, np.int8 if scheme.symmetric else np.uint8)
    scale = np.empty(counts, np.float16)
    offset = None if scheme.symmetric else np.empty(counts, np.uint8)
    error = 0.0
    for rows in _slices(weight.shape):
        part = np.asarray(weight[rows], np.float32)
        blocks, axes = _blocked(part, scale[rows].shape)
        low, high = blocks.min(axes, keepdims=True), blocks.max(axes, keepdims=True)
        step, zero = _symmetric(low, high, scheme.bits) if offset is None else _asymmetric(low, high, scheme.bits)
        least, most = (
            (1 - 2 ** (scheme.bits - 1), 2 ** (scheme.bits - 1) - 1) if offset is None else (0, (1 << scheme.bits) - 1)
        )
        blocks /= step.astype(np.float32)
        np.rint(blocks, out=blocks)
        blocks += zero
        np.clip(blocks, least, most, out=blocks)
        data[rows] = blocks.reshape(part.shape).astype(data.dtype)
        scale[rows] = step.reshape(scale[rows].shape)
        if offset is not None:
            offset[rows] = zero.reshape(offset[rows].shape)
        decoded = _decoded(data[rows], scale[rows], None if offset is None else offset[rows])
        part = np.asarray(weight[rows], np.float32) - decoded.astype(np.float32)
        error += float(np.vdot(part, part))
    return LinearEncoding(data, scale, offset, scheme.bits, error / max(weight.size, 1))


def scale_shape(shape: tuple[int, ...], block_size: int) -> tuple[int, ...]:
    """Returns the shape of a weight's scales: one per output channel, and per block of input channels if given.

    Raises:
        UnsupportedError: the input channels are not a multiple of the block size.
    """
    ones = (1,) * (len(shape) - 1)
    if not block_size:
        return (shape[0], *ones)
    if len(shape) < 2 or shape[1] % block_size:
        raise UnsupportedError(f"the input channels must be a multiple of the block size {block_size}", list(shape))
    return (shape[0], shape[1] // block_size, *ones[1:])


def _symmetric(low: NDArray[Any], high: NDArray[Any], bits: int) -> tuple[NDArray[np.float16], NDArray[Any]]:
    step = _step(np.maximum(-low, high), 2 ** (bits - 1) - 1)
    return step, np.zeros((1,) * step.ndim, np.float32)


def _asymmetric(low: NDArray[Any], high: NDArray[Any], bits: int) -> tuple[NDArray[np.float16], NDArray[Any]]:
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    step = _step(high - low, (1 << bits) - 1)
    return step, np.clip(np.rint(-low / step.astype(np.float32)), 0, (1 << bits) - 1)


def _step(span: NDArray[Any], steps: int) -> NDArray[np.float16]:
    return np.maximum((span / steps).astype(np.float16), _SMALLEST_SCALE)


def _blocked(part: NDArray[Any], counts: tuple[int, ...]) -> tuple[NDArray[Any], tuple[int, ...]]:
    """Returns a copy with each axis split into (blocks, elements of one), and the axes of elements."""
    split = [n for size, count in zip(part.shape, counts, strict=True) for n in (count, size // count)]
    return np.array(part).reshape(split), tuple(range(1, 2 * part.ndim, 2))


def _decoded(data: NDArray[Any], scale: NDArray[np.float16], offset: NDArray[Any] | None) -> NDArray[np.float16]:
    blocks, axes = _blocked(data.astype(np.float32), scale.shape)
    if offset is not None:
        blocks -= np.expand_dims(offset.astype(np.float32), axes)
    blocks *= np.expand_dims(scale.astype(np.float32), axes)
    return blocks.reshape(data.shape).astype(np.float16)


def _slices(shape: tuple[int, ...]) -> list[slice]:
    """Cuts the output channels into runs of bounded size."""
    rows = max(1, _AT_ONCE // max(1, int(np.prod(shape[1:]))))
    return [slice(start, start + rows) for start in range(0, shape[0], rows)]
