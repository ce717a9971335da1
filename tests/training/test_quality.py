"""Figures of sets of pictures, against values by hand or by loops."""

from __future__ import annotations

import numpy as np
import pytest

from sdmobile.training.quality import (
    entropy_bits,
    kernel_distance,
    precision_recall,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"), [(199, 200, 0.972, 0.999), (190, 200, 0.910, 0.973), (0, 10, 0.0, 0.278)]
)
def test_wilson(hits: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(hits, total) == pytest.approx((low, high), abs=6e-4)
    assert wilson_interval(total - hits, total) == pytest.approx((1 - high, 1 - low), abs=6e-4)


def test_the_kernel_distance_is_its_definition() -> None:
    """Two rows of four are drawn each time: the mean over all pairs of halves is that of the whole sets."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 3)), rng.normal(0.5, 1.0, size=(4, 3))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    apart = {(i, j) for i in range(4) for j in range(4) if i != j}
    halves = [
        kernel(x[i], x[j]) + kernel(y[k], y[m]) - 2 * np.mean([kernel(x[a], y[b]) for a in (i, j) for b in (k, m)])
        for i, j in apart
        for k, m in apart
    ]
    means = [kernel_distance(x, y, seed)[0] for seed in range(400)]
    assert np.mean(means) == pytest.approx(np.mean(halves), abs=4 * np.std(halves) / np.sqrt(4000))


def test_the_kernel_distance_tells_sets_apart() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 8)), rng.normal(size=(400, 8))
    same, spread = kernel_distance(x, y)
    assert abs(same) < 4 * spread
    assert kernel_distance(x, y + 0.5)[0] > 10 * spread
    with pytest.raises(ValueError, match="at least 4 pictures"):
        kernel_distance(x[:3], y)


def test_precision_and_recall() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(600, 4)), rng.normal(size=(700, 4))
    assert precision_recall(x, x) == (1.0, 1.0)
    near = precision_recall(x, y)
    assert min(near) > 0.8
    assert precision_recall(x, y + 100) == (0.0, 0.0)
    precision, recall = precision_recall(x, 0.1 * y)  # all pictures alike: good ones, and few kinds
    assert precision > 0.99
    assert recall < 0.3
    assert precision_recall(0.1 * y, x) == (recall, precision)


def test_a_neighbour_is_as_far_as_the_third() -> None:
    line = np.arange(5.0)[:, None]  # the third neighbour of 0 is at 3, of 2 at 2 (or 0 or 4), of 4 at 1
    assert precision_recall(line, np.array([[-3.0], [-3.1], [7.0], [7.1]]))[0] == 0.5


def test_entropy() -> None:
    assert entropy_bits("aaaa") == 0.0
    assert entropy_bits([1, 2, 3, 4] * 5) == pytest.approx(2.0)
    assert entropy_bits("aab") == pytest.approx(0.918296, abs=1e-6)
