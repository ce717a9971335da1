"""Whether stored values are what a scheme makes of the exact ones.

- float16: |v − w| ≤ 2⁻¹⁰·|w| + 2⁻²⁴, and float32: 2⁻²¹·(|w| + 10⁻³·max|w|). That is one rounding, and one more of a
  factor that was folded in.
- A palette: every value has the nearest entry of its table, and every entry is the mean of the values that have it, up
  to a tenth of the distance to the next entry.
- Integers with a step s: |v − w| ≤ s/2, with an offset s, and 2⁻¹⁰·|w| for the rounding of the step itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.float16 import MAX_FINITE
from sdmobile.validate.weights.stored import Float, Palette, Steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.validate.weights.stored import Coding

HALF_ROUNDING, HALF_SMALLEST = 2.0**-10, 2.0**-24
SINGLE_ROUNDING = 2.0**-21
ENTRY_SHARE = 0.1
"""Of the distance between two entries of a palette: by how much an entry may miss the mean of its values."""
_PATTERNS, _NEGATIVE_ZERO = 1 << 16, 0x8000
_STEP = 0.502
_OFFSET_STEP = 1.002


def misfits(values: NDArray[Any], exact: NDArray[Any], coding: Coding) -> NDArray[np.bool_]:
    """Returns which stored values are not what the coding makes of the exact ones; NaN never is.

    Args:
        values: as the file has them, decoded, float32.
        exact: float32 or float64, of the same shape.
        coding: of the file.
    """
    if isinstance(coding, Palette):
        return _palette_misfits(values, exact, coding)
    error = np.abs(_held(values) - _held(exact))
    size = np.abs(exact)
    if isinstance(coding, Steps):
        share = _OFFSET_STEP if coding.offset else _STEP
        return ~(error <= np.broadcast_to(coding.steps, values.shape) * share + HALF_ROUNDING * size + HALF_SMALLEST)
    if coding.bits == 16:
        return ~(error <= HALF_ROUNDING * size + HALF_SMALLEST)
    return ~(error <= SINGLE_ROUNDING * (size + 1e-3 * float(size.max(initial=0.0))))


def _held(values: NDArray[Any]) -> NDArray[Any]:
    """Returns values with those beyond float16 at its largest number, as a converter may store them."""
    return np.clip(values, -MAX_FINITE, MAX_FINITE)


def _palette_misfits(values: NDArray[Any], exact: NDArray[Any], coding: Palette) -> NDArray[np.bool_]:
    wrong = np.zeros(values.size, bool).reshape(coding.tables, -1)
    rows = zip(values.reshape(coding.tables, -1), exact.reshape(coding.tables, -1), wrong, strict=True)
    for stored, wanted, result in rows:
        result[:] = _misfits_of_table(stored, _held(wanted.astype(np.float64)), coding.bits)
    return wrong.reshape(values.shape)


def _misfits_of_table(stored: NDArray[Any], wanted: NDArray[Any], bits: int) -> NDArray[np.bool_]:
    entries, codes = _entries(stored)
    if len(entries) > 1 << bits or not np.all(np.isfinite(entries)):
        return np.ones(stored.shape, bool)
    entries = entries.astype(np.float64)
    rounding = HALF_ROUNDING * np.abs(entries) + HALF_SMALLEST
    middle = (entries[1:] + entries[:-1]) / 2
    low, high = np.r_[-np.inf, middle], np.r_[middle, np.inf]
    slack = HALF_ROUNDING * np.abs(wanted) + rounding[codes]
    far = (wanted < low[codes] - slack) | (wanted > high[codes] + slack)
    means = np.bincount(codes, wanted, len(entries)) / np.bincount(codes, minlength=len(entries))
    gaps = np.diff(entries)
    nearest = np.minimum(np.r_[np.inf, gaps], np.r_[gaps, np.inf]) if len(gaps) else np.zeros(1)
    off = np.abs(means - entries) > rounding + ENTRY_SHARE * np.where(np.isfinite(nearest), nearest, 0.0)
    return far | off[codes]


def _entries(stored: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Returns the values that occur, ascending, and which of them each element has.

    Tables hold float16 numbers, so counting their 2¹⁶ patterns does what sorting would do in many times the time.
    """
    half = stored.astype(np.float16)
    if not np.array_equal(half, stored):
        entries, codes = np.unique(stored, return_inverse=True)
        return entries, codes.reshape(-1)
    patterns = half.view(np.uint16)
    patterns[patterns == _NEGATIVE_ZERO] = 0
    present = np.flatnonzero(np.bincount(patterns, minlength=_PATTERNS))
    values = present.astype(np.uint16).view(np.float16)
    ascending = np.argsort(values)
    ranks = np.zeros(_PATTERNS, np.intp)
    ranks[present[ascending]] = np.arange(len(present))
    return values[ascending], ranks[patterns]


def is_exact(values: NDArray[Any], exact: NDArray[Any], coding: Coding) -> bool:
    """Whether the stored values are the exact ones, at most rounded once to the type that they are stored in."""
    if not isinstance(coding, Float):
        return False
    rounded = exact.astype(np.float16 if coding.bits == 16 else np.float32).astype(np.float32)
    return bool(np.array_equal(values, rounded))
