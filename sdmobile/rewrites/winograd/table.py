"""What an output tile size saves, costs and rounds away: the table of tile sizes in 2304.11267, computed."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from sdmobile.device_profiles.runtime_rules.conv_layer import KERNEL
from sdmobile.rewrites.winograd.transforms import ML_DRIFT, as_array, transforms


@dataclass(frozen=True)
class TileFacts:
    """One row of the table.

    Args:
        tile: m, outputs per axis.
        flops_saving: direct multiplications over Winograd's, 9m² / (m+2)².
        intermediates: elements of the transformed input over those of the input, (m+2)² / m².
        weights: elements of the transformed weights over those of the weights, (m+2)² / 9.
    """

    tile: int
    flops_saving: Fraction
    intermediates: Fraction
    weights: Fraction


def tile_facts(tile: int) -> TileFacts:
    """Returns the exact ratios of an output tile size; the transforms' own operations are not counted."""
    elements, kernel = (tile + KERNEL - 1) ** 2, KERNEL**2
    outputs = tile**2
    return TileFacts(
        tile, Fraction(kernel * outputs, elements), Fraction(elements, outputs), Fraction(elements, kernel)
    )


@dataclass(frozen=True)
class Rounding:
    """Which numbers of a convolution are stored in float16; sums are kept wider throughout.

    Args:
        weights: the weights, transformed ones for Winograd.
        activations: input, transformed input, products and output.
    """

    weights: bool = True
    activations: bool = True


@cache
def error_db(
    tile: int | None, points: str = ML_DRIFT, rounding: Rounding | None = None, channels: int = 320, seed: int = 0
) -> float:
    """Returns the signal-to-noise ratio of one layer in dB, 10·log10(Σy² / Σ(ŷ−y)²), y in float64.

    Input and weights are normally distributed, 32 tiles by 32 output channels: enough that seeds differ by 0.2 dB.

    Args:
        tile: m; None for the direct convolution.
        points: interpolation points, see `transforms`.
        rounding: what is stored in float16, everything by default.
        channels: input channels.
        seed: of the data.
    """
    rng = np.random.default_rng(seed)
    m = tile or 4
    data = rng.standard_normal((channels, m + KERNEL - 1, m + KERNEL - 1, 32))
    kernel = rng.standard_normal((32, channels, KERNEL, KERNEL)) / np.sqrt(KERNEL**2 * channels)
    exact = _direct(data, kernel)
    stored = rounding or Rounding()
    if tile is None:
        rounded = _direct(_store(data, stored.activations), _store(kernel, stored.weights))
    else:
        rounded = _winograd(data, kernel, tile, points, stored)
    noise = _store(rounded, stored.activations) - exact
    return float(10 * np.log10(np.square(exact).sum() / np.square(noise).sum()))


def _store(values: np.ndarray, half: bool) -> np.ndarray:
    return values.astype(np.float16).astype(np.float64) if half else values


def _direct(data: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns the correlation (O, m, m, tiles) of tiles (C, m+2, m+2, tiles) with kernels (O, C, 3, 3)."""
    m = data.shape[1] - KERNEL + 1
    taps = ((r, s) for r in range(KERNEL) for s in range(KERNEL))
    return sum(np.tensordot(kernel[:, :, r, s], data[:, r : r + m, s : s + m], 1) for r, s in taps)  # type: ignore


def _winograd(data: np.ndarray, kernel: np.ndarray, tile: int, points: str, stored: Rounding) -> np.ndarray:
    """Returns the same by Winograd's method, with everything that a kernel would write to memory rounded."""
    matrices = transforms(tile, points)
    a, b, g = (as_array(m) for m in (matrices.output, matrices.data, matrices.kernel))
    u = _store(np.einsum("ar,ocrs,bs->aboc", g, kernel, g, optimize=True), stored.weights)
    v = np.einsum("ai,cijt,bj->abct", b, _store(data, stored.activations), b, optimize=True)
    products = _store(np.matmul(u, _store(v, stored.activations)), stored.activations)
    return np.einsum("ia,abot,jb->oijt", a, products, a, optimize=True)
