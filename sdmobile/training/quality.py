"""How near drawn pictures are to rendered ones as a set: figures for pictures of 64 pixels, none of which is an FID."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from numpy.typing import NDArray

_Z95 = 1.959964
_ROWS = 512


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share: (p + z²/2n ± z·√(p(1 − p)/n + z²/4n²)) / (1 + z²/n).

    Args:
        hits: p·n.
        total: n, at least 1.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    share, square = hits / total, _Z95 * _Z95 / total
    middle = share + square / 2
    half = _Z95 * math.sqrt(share * (1 - share) / total + square / (4 * total))
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    return max(0.0, low), min(1.0, high)


def kernel_distance(real: NDArray[np.float64], drawn: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Returns the squared maximum mean discrepancy of two sets of features, with its spread over 10 random halves.

        MMD² = E k(x, x′) + E k(y, y′) − 2·E k(x, y),  k(x, y) = (x·y/d + 1)³,  x ≠ x′, y ≠ y′

    The estimate has no bias, so it may be below zero where the sets are alike.

    Args:
        real: [N, d].
        drawn: [M, d].
        seed: of the halves.

    Returns:
        Mean and standard deviation over the halves.

    Source: Bińkowski et al., Demystifying MMD GANs, ICLR 2018, section 4.
    """
    size = min(len(real), len(drawn)) // 2
    if size < 2:
        raise ValueError(f"a distance needs at least 4 pictures of each kind, not {len(real)} and {len(drawn)}")
    rng = np.random.default_rng(seed)
    halves = [
        _discrepancy(*(rows[rng.choice(len(rows), size, replace=False)] for rows in (real, drawn))) for _ in range(10)
    ]
    return float(np.mean(halves)), float(np.std(halves))


def _discrepancy(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def alike(rows: NDArray[np.float64]) -> float:
        values = kernel(rows, rows)
        return float((values.sum() - np.trace(values)) / (len(rows) * (len(rows) - 1)))

    return alike(x) + alike(y) - 2 * float(kernel(x, y).mean())


def precision_recall(real: NDArray[np.float64], drawn: NDArray[np.float64], k: int = 3) -> tuple[float, float]:
    """Returns the share of drawn pictures near a real one, and of real ones near a drawn one.

    Near means: not farther from it than its own k-th neighbour in its set.

    Args:
        real: features, [N, d].
        drawn: features, [M, d].
        k: neighbours.

    Source: Kynkäänniemi et al., Improved precision and recall metric, NeurIPS 2019, equations 1 and 2.
    """
    return _covered(real, drawn, k), _covered(drawn, real, k)


def _covered(support: NDArray[np.float64], asked: NDArray[np.float64], k: int) -> float:
    if len(support) <= k:
        raise ValueError(f"{k} neighbours need more than {len(support)} pictures")
    # The nearest of all is the row itself.
    radii = np.concatenate([np.partition(rows, k, axis=1)[:, k] for rows in _squared_distances(support, support)])
    inside = [(rows <= radii * (1 + 1e-9)).any(axis=1) for rows in _squared_distances(asked, support)]
    return float(np.concatenate(inside).mean())


def _squared_distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> Iterable[NDArray[np.float64]]:
    """Yields |aᵢ − bⱼ|², some rows at a time."""
    for start in range(0, len(a), _ROWS):
        rows = a[start : start + _ROWS]
        yield (rows * rows).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * rows @ b.T


def entropy_bits(values: Iterable[Hashable]) -> float:
    """Returns −Σ p·log₂ p of the values' frequencies: 0 where all are alike."""
    counts: dict[Hashable, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    total = sum(counts.values())
    return sum(count / total * math.log2(total / count) for count in counts.values())
