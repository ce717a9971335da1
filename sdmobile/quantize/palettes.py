"""Palettes: a table of few float16 values and an index per element, with the least squared error there is.

They come from a histogram: a weight holds never more than 65,536 float16 values, whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.quantize.kmeans1d import optimal_clusters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.quantize.schemes import Palette

PATTERNS = 1 << 16
_NEGATIVE_ZERO = 0x8000
_AT_ONCE = 1 << 20  # bincount widens what it counts to 64 bits


@dataclass(frozen=True, eq=False)
class PaletteEncoding:
    """A weight as indices into tables.

    Args:
        lut: float16 [groups, 2**bits], each row ascending; entries without use repeat the last one.
        indices: uint8 of the weight's shape.
        bits: width of an index.
        mse: mean squared error of the decoded weight against the weight in float16.
    """

    lut: NDArray[np.float16]
    indices: NDArray[np.uint8]
    bits: int
    mse: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.indices.shape

    @property
    def stored_bytes(self) -> int:
        """Bytes of the packed indices and the tables."""
        return -(-self.indices.size * self.bits // 8) + self.lut.nbytes

    def decode(self) -> NDArray[np.float16]:
        """Returns the weight that the indices stand for."""
        groups = len(self.lut)
        rows = self.indices.reshape(groups, -1)
        result = np.empty(rows.shape, np.float16)
        for table, index, out in zip(self.lut, rows, result, strict=True):
            np.take(table, index, out=out, mode="clip")
        return result.reshape(self.shape)


def palettize(weight: NDArray[Any], scheme: Palette) -> PaletteEncoding:
    """Returns the palettes with the least mean squared error.

    The k-means centroids are optimal for the weight's histogram; they are rounded to float16, the type of the file,
    and each element takes the nearest stored value. Rounding never makes two centroids equal, because each lies
    between two float16 values of its own cluster.

    Args:
        weight: [output channels, ...], finite; rounded to float16 first if of another type.
        scheme: width of an index, and output channels per table.

    Raises:
        UnsupportedError: the output channels are not a multiple of the group size, or the weight is empty.
        CheckpointError: a value is not finite in float16.
    """
    groups = _groups(weight.shape, scheme.group_size)
    patterns = bit_patterns(weight).reshape(groups, -1)
    lut = np.empty((groups, 1 << scheme.bits), np.float16)
    indices = np.empty(patterns.shape, np.uint8)
    error = 0.0
    for row, bits in enumerate(patterns):
        counted = histogram(bits)
        lut[row] = palette(counted, 1 << scheme.bits)
        codes = _nearest(counted, lut[row])
        error += _squared_error(counted, lut[row], codes)
        table = np.zeros(PATTERNS, np.uint8)
        table[counted.patterns] = codes
        table[0x8000] = table[0]
        indices[row] = table[bits]
    return PaletteEncoding(lut, indices.reshape(weight.shape), scheme.bits, error / patterns.size)


def palette(counted: Histogram, size: int) -> NDArray[np.float16]:
    """Returns the best table of a histogram, float16 [size], ascending."""
    centroids = optimal_clusters(counted.values, counted.counts, size).centroids.astype(np.float16)
    return np.pad(centroids, (0, size - len(centroids)), mode="edge")


def _nearest(counted: Histogram, table: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Returns the index of the nearest entry for each value; the lower of two at the same distance."""
    exact = np.unique(table).astype(np.float64)
    return np.searchsorted((exact[1:] + exact[:-1]) / 2, counted.values).astype(np.uint8)


def _squared_error(counted: Histogram, table: NDArray[np.float16], codes: NDArray[np.uint8]) -> float:
    errors = counted.values - table[codes].astype(np.float64)
    return float(np.dot(counted.counts, errors * errors))


def _groups(shape: tuple[int, ...], group_size: int) -> int:
    if not shape or 0 in shape:
        raise UnsupportedError("a weight for a palette has elements and an output axis", list(shape))
    if group_size and shape[0] % group_size:
        raise UnsupportedError(f"the output channels must be a multiple of the group size {group_size}", list(shape))
    return shape[0] // group_size if group_size else 1


@dataclass(frozen=True, eq=False)
class Histogram:
    """Distinct values of a weight, ascending.

    Args:
        patterns: uint16 [n], the bits of each value; -0 counts as +0.
        counts: int64 [n], how often each occurs, all positive.
    """

    patterns: NDArray[np.uint16]
    counts: NDArray[np.int64]

    @property
    def values(self) -> NDArray[np.float64]:
        """The values, float64 [n], strictly ascending."""
        return self.patterns.view(np.float16).astype(np.float64)


def bit_patterns(weight: NDArray[Any]) -> NDArray[np.uint16]:
    """Returns the float16 bits of a weight, uint16 of its shape; other types are rounded to float16 first."""
    return np.ascontiguousarray(weight, np.float16).view(np.uint16)


def histogram(patterns: NDArray[np.uint16]) -> Histogram:
    """Counts float16 values.

    Args:
        patterns: bits of the values, any shape, at least one.

    Raises:
        CheckpointError: a value is not finite.
    """
    flat = patterns.reshape(-1)
    counts = np.zeros(PATTERNS, np.int64)
    for start in range(0, flat.size, _AT_ONCE):
        counts += np.bincount(flat[start : start + _AT_ONCE], minlength=PATTERNS)
    counts[0] += counts[_NEGATIVE_ZERO]
    counts[_NEGATIVE_ZERO] = 0
    ascending = _ascending()
    kept = counts[ascending]
    if int(kept.sum()) != flat.size:
        raise CheckpointError("weights must be finite in float16", f"{flat.size - int(kept.sum())} are not")
    present = np.flatnonzero(kept)
    return Histogram(ascending[present], kept[present])


@cache
def _ascending() -> NDArray[np.uint16]:
    """Returns the bits of all finite values but -0, in ascending order of value."""
    negative = np.arange(0xFBFF, _NEGATIVE_ZERO, -1, dtype=np.uint16)
    return np.concatenate([negative, np.arange(0x7C00, dtype=np.uint16)])
