"""Which float16 values a weight holds and how often: never more than 65,536, whatever its size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PATTERNS = 1 << 16
_NEGATIVE_ZERO = 0x8000
_AT_ONCE = 1 << 20  # bincount widens what it counts to 64 bits


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

    @property
    def elements(self) -> int:
        """Number of elements counted."""
        return int(self.counts.sum())


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
