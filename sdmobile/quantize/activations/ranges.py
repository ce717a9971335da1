"""The range of one activation: a histogram of magnitudes that grows with the data, and where to clip."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Method = Literal["max", "percentile", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
LEVELS = 127
"""Largest magnitude of a symmetric int8 number; −128 is not used."""
PERCENTILE = 0.9999
_BINS = 4096
_CANDIDATES = 200
_SMALLEST = 2.0**-24


class Magnitudes:
    """A histogram of |x| over any number of tensors, in constant memory.

    When a larger magnitude comes, neighbouring bins are joined, so that the limit is a power of two and every element
    stays in the bin that a histogram of all data at once would have put it in.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(_BINS, np.int64)
        self.limit = 0.0
        self.peak = 0.0

    def add(self, values: torch.Tensor) -> None:
        """Counts the elements of a tensor.

        Raises:
            UnsupportedError: one of them is not finite.
        """
        magnitudes = values.detach().abs().reshape(-1).double()
        peak = float(magnitudes.max()) if magnitudes.numel() else 0.0
        if not math.isfinite(peak):
            raise UnsupportedError("activations to calibrate must be finite", peak)
        self._grow(peak)
        self.peak = max(self.peak, peak)
        if self.limit:
            indices = (magnitudes * (_BINS / self.limit)).long().clamp_(max=_BINS - 1)
            self.counts += indices.bincount(minlength=_BINS).numpy()
        else:
            self.counts[0] += magnitudes.numel()

    def clip(self, method: Method) -> float:
        """Returns the magnitude that becomes the largest integer.

        "max": the largest one seen. "percentile": 99.99 % of the elements are below it. "mse": the c that minimises
        Σ_{|x| ≤ c} s²/12 + Σ_{|x| > c} (|x| − c)², s = c/127: rounding as uniform noise, and what is clipped (Banner et
        al., "Post training 4-bit quantization of convolutional networks for rapid-deployment", arXiv:1810.05723).
        """
        if method == "max" or not self.peak:
            return self.peak
        if method == "percentile":
            index = int(np.searchsorted(np.cumsum(self.counts), PERCENTILE * self.counts.sum()))
            return min(self.peak, (index + 1) * self.limit / _BINS)
        return self._least_squares()

    def _least_squares(self) -> float:
        centres = (np.arange(_BINS) + 0.5) * (self.limit / _BINS)
        clips = self.peak * np.geomspace(0.02, 1.0, _CANDIDATES)
        inside = np.searchsorted(centres, clips, side="right")
        sums = [np.concatenate([[0.0], np.cumsum(self.counts * centres**power)]) for power in range(3)]
        n, first, second = (total[-1] - total[inside] for total in sums)
        clipped = second - 2.0 * clips * first + clips**2 * n
        errors = sums[0][inside] * (clips / LEVELS) ** 2 / 12.0 + np.maximum(clipped, 0.0)
        return float(clips[int(np.argmin(errors))])

    def _grow(self, peak: float) -> None:
        if peak > self.limit and not self.limit:
            self.limit = 2.0 ** math.ceil(math.log2(peak))
        while peak > self.limit:
            joined = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([joined, np.zeros(_BINS // 2, np.int64)])
            self.limit *= 2.0


def scale_for(clip: float, dtype: str) -> float:
    """Returns the step of int8 numbers up to ±clip, clip/127, as the element type of the activation holds it.

    Args:
        clip: largest magnitude, in the activation's unit; 0 for an activation that is always 0, whose step is 1.
        dtype: "float16" or "float32".
    """
    if not clip:
        return 1.0
    return float(max(np.dtype(dtype).type(clip / LEVELS), np.dtype(dtype).type(_SMALLEST)))
