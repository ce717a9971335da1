"""Structural similarity of two pictures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SIGMA = 1.5  # of the Gaussian window, in pixels
RADIUS = 5  # the window is 11 × 11
K1, K2 = 0.01, 0.03


def image_ssim(reference: ArrayLike, converted: ArrayLike) -> float:
    """Mean structural similarity of two pictures, 1 where they are equal.

    SSIM(x, y) = (2·μx·μy + C1)·(2·σxy + C2) / ((μx² + μy² + C1)·(σx² + σy² + C2)), with C1 = (K1·L)², C2 = (K2·L)² and
    L = 1 the range of a pixel. μ, σ² and σxy are taken under an 11 × 11 Gaussian window of σ = 1.5 pixels. The map is
    averaged over the positions where the whole window lies in the picture, and over the three channels.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity",
    IEEE Transactions on Image Processing 13(4), 2004, equation 13 and section III-C.

    Args:
        reference: decoder output [1, C, H, W] in [−1, 1]; it is clipped to that range.
        converted: the same of the other side.

    Returns:
        The mean, or NaN where a value is not finite.

    Raises:
        ValueError: the shapes differ, or a side is shorter than the window.
    """
    a, b = (np.asarray(image, dtype=np.float64) for image in (reference, converted))
    if a.shape != b.shape or a.ndim != 4 or min(a.shape[-2:]) < 2 * RADIUS + 1:
        raise ValueError(f"SSIM compares two pictures [1, C, H, W] of 11 × 11 pixels or more; got {a.shape}, {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    x, y = (np.clip(image, -1.0, 1.0) / 2.0 + 0.5 for image in (a, b))
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)))


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the weighted mean under the window wherever it fits."""
    from scipy.ndimage import correlate1d

    window = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
    window /= window.sum()
    blurred = correlate1d(correlate1d(image, window, axis=-1), window, axis=-2)
    return blurred[..., RADIUS:-RADIUS, RADIUS:-RADIUS]
