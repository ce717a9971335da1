"""How far an exported file's output is from the reference's, in numbers.

Every function takes the reference first and the converted output second, accumulates in float64 and returns a finite
number when both arrays are finite. A non-finite element on either side makes the decibel figures NaN, which no
threshold accepts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray


PEAK_EPSILON = 1e-5
RMSE_EPSILON = 1e-10


def _pair(reference: ArrayLike, converted: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(converted, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"metrics compare arrays of one shape; got {a.shape} and {b.shape}")
    if a.size == 0:
        raise ValueError("metrics need at least one element")
    return a, b


def _finite(*arrays: NDArray[np.float64]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)


def rmse(reference: ArrayLike, converted: ArrayLike) -> float:
    """Root mean square error, √(Σ(a−b)² / n), in the arrays' unit."""
    a, b = _pair(reference, converted)
    if not _finite(a, b):
        return math.nan
    return float(np.sqrt(np.mean(np.square(a - b))))


def psnr(reference: ArrayLike, converted: ArrayLike) -> float:
    """Peak signal-to-noise ratio in dB as Apple's converter defines it.

    20·log₁₀((max|b| + 1e-5) / (RMSE(a, b) + 1e-10)) with b the converted output. The peak is the output's own, so the
    figure compares components of different ranges; the two constants bound it where the arrays are equal.

    Source: apple/ml-stable-diffusion, python_coreml_stable_diffusion/torch2coreml.py, `compute_psnr`.
    """
    a, b = _pair(reference, converted)
    if not _finite(a, b):
        return math.nan
    peak = float(np.abs(b).max())
    return 20.0 * math.log10((peak + PEAK_EPSILON) / (rmse(a, b) + RMSE_EPSILON))


def image_psnr(reference: ArrayLike, converted: ArrayLike) -> float:
    """Peak signal-to-noise ratio of two pictures in dB, −20·log₁₀(RMSE + 1e-10) with pixels in [0, 1].

    Both arguments are decoder outputs in [−1, 1]; they are clipped to that range first, as a picture file clips them.
    """
    a, b = _pair(reference, converted)
    if not _finite(a, b):
        return math.nan
    unit_a, unit_b = (np.clip(x, -1.0, 1.0) / 2.0 + 0.5 for x in (a, b))
    return -20.0 * math.log10(rmse(unit_a, unit_b) + RMSE_EPSILON)


def snr(reference: ArrayLike, converted: ArrayLike) -> float:
    """Signal-to-noise ratio in dB, 20·log₁₀((RMS(a) + 1e-10) / (RMSE(a, b) + 1e-10)) with a the reference."""
    a, b = _pair(reference, converted)
    if not _finite(a, b):
        return math.nan
    rms = float(np.sqrt(np.mean(np.square(a))))
    return 20.0 * math.log10((rms + RMSE_EPSILON) / (rmse(a, b) + RMSE_EPSILON))


def max_abs(reference: ArrayLike, converted: ArrayLike) -> float:
    """Largest absolute difference, max|a − b|, in the arrays' unit."""
    a, b = _pair(reference, converted)
    if not _finite(a, b):
        return math.nan
    return float(np.abs(a - b).max())


def cosine(reference: ArrayLike, converted: ArrayLike) -> float:
    """Cosine similarity ⟨a, b⟩ / (‖a‖·‖b‖) over all elements; 1 for two zero arrays, 0 if one of them is zero."""
    a, b = _pair(reference, converted)
    if not _finite(a, b):
        return math.nan
    peak_a, peak_b = float(np.abs(a).max()), float(np.abs(b).max())
    if peak_a == 0.0 or peak_b == 0.0:
        return 1.0 if peak_a == peak_b else 0.0
    # Scaled first: squares of numbers below 1e-154 would underflow even in float64.
    unit_a, unit_b = a.ravel() / peak_a, b.ravel() / peak_b
    value = float(unit_a @ unit_b) / math.sqrt(float(unit_a @ unit_a) * float(unit_b @ unit_b))
    return min(1.0, max(-1.0, value))


def non_finite(array: ArrayLike) -> int:
    """Number of elements that are NaN or infinite."""
    values = np.asarray(array)
    return int(values.size - np.isfinite(values).sum())


@dataclass(frozen=True)
class Metrics:
    """All figures of one comparison.

    Args:
        psnr_db: see `psnr`.
        snr_db: see `snr`.
        max_abs: see `max_abs`.
        cosine: see `cosine`.
        non_finite: non-finite elements of the converted output.
    """

    psnr_db: float
    snr_db: float
    max_abs: float
    cosine: float
    non_finite: int

    def to_json(self) -> dict[str, float | int | None]:
        """Returns the figures with null for NaN, which JSON does not have."""
        return {
            "psnr_db": json_number(self.psnr_db),
            "snr_db": json_number(self.snr_db),
            "max_abs": json_number(self.max_abs),
            "cosine": json_number(self.cosine),
            "non_finite": self.non_finite,
        }


def compare(reference: ArrayLike, converted: ArrayLike) -> Metrics:
    """Computes every metric of one output."""
    return Metrics(
        psnr_db=psnr(reference, converted),
        snr_db=snr(reference, converted),
        max_abs=max_abs(reference, converted),
        cosine=cosine(reference, converted),
        non_finite=non_finite(converted),
    )


def worst(metrics: Iterable[Metrics]) -> Metrics:
    """Returns the worst of each figure separately; NaN counts as worse than any number.

    Raises:
        ValueError: there is nothing to compare.
    """
    rows = list(metrics)
    if not rows:
        raise ValueError("the worst of no metrics is undefined")

    def lowest(values: list[float]) -> float:
        return math.nan if any(math.isnan(v) for v in values) else min(values)

    return Metrics(
        psnr_db=lowest([m.psnr_db for m in rows]),
        snr_db=lowest([m.snr_db for m in rows]),
        max_abs=-lowest([-m.max_abs for m in rows]),
        cosine=lowest([m.cosine for m in rows]),
        non_finite=max(m.non_finite for m in rows),
    )


def json_number(value: float) -> float | None:
    """Returns the number, or None where JSON has no way to write it."""
    return value if math.isfinite(value) else None


def to_pixels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turns a decoder output [1, 3, H, W] in [−1, 1] into pixels [H, W, 3] in 0 … 255; what is not finite is black."""
    finite = np.nan_to_num(image[0].astype(np.float64), nan=-1.0, posinf=-1.0, neginf=-1.0)
    unit = np.clip(finite / 2.0 + 0.5, 0.0, 1.0)
    return np.round(unit * 255.0).astype(np.uint8).transpose(1, 2, 0)


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
