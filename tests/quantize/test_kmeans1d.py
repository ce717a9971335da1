"""Optimal clusters against all partitions, the quadratic program, Lloyd's algorithm and a full search."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.quantize import kmeans1d
from sdmobile.quantize.kmeans1d import optimal_clusters

POINTS = st.lists(
    st.tuples(st.integers(-2000, 2000), st.integers(1, 50)), min_size=1, max_size=9, unique_by=lambda p: p[0]
)


def _sse(values: np.ndarray, counts: np.ndarray) -> float:
    return float(np.sum(counts * (values - np.average(values, weights=counts)) ** 2))


def _all_partitions(values: np.ndarray, counts: np.ndarray, k: int) -> float:
    cuts = ((0, *inner, len(values)) for inner in combinations(range(1, len(values)), min(k, len(values)) - 1))
    return min(sum(_sse(values[a:b], counts[a:b]) for a, b in pairwise(c)) for c in cuts)


def _quadratic(values: np.ndarray, counts: np.ndarray, k: int) -> float:
    """O(k n²) dynamic program in extended precision, all predecessors looked at."""
    v, w = (values - np.average(values, weights=counts)).astype(np.longdouble), counts.astype(np.longdouble)
    s0, s1, s2 = (np.concatenate([[0], np.cumsum(w * v**p)]) for p in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = (s2[None] - s2[:, None]) - (s1[None] - s1[:, None]) ** 2 / (s0[None] - s0[:, None])
    cost[np.tril_indices(len(s0))] = np.inf
    best = cost[0]
    for _ in range(k - 1):
        best = np.min(best[:, None] + cost, axis=0)
    return float(best[-1])


def _weighted(seed: int, n: int, kind: str = "normal") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    draw = {
        "normal": lambda: rng.standard_normal(n),
        "heavy tails": lambda: rng.standard_t(1.5, n),
        "two lumps": lambda: np.where(rng.random(n) < 0.3, 50, 0) + rng.standard_normal(n),
        "uniform": lambda: rng.uniform(-1, 1, n),
        "far from zero": lambda: 1e4 + rng.standard_normal(n),
    }[kind]
    values = np.unique(draw())
    return values, rng.integers(1, 1000, len(values))


@given(POINTS, st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_no_partition_is_better(points: list[tuple[int, int]], k: int) -> None:
    values, counts = (np.array(column) for column in zip(*sorted(points), strict=True))
    found = optimal_clusters(values, counts, k)
    assert found.sse == pytest.approx(_all_partitions(values, counts, k), rel=1e-9, abs=1e-9 * _sse(values, counts))


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "two lumps", "uniform", "far from zero"])
@pytest.mark.parametrize("k", [2, 4, 8, 16])
def test_equals_the_quadratic_program(kind: str, k: int) -> None:
    values, counts = _weighted(k, 600, kind)
    assert optimal_clusters(values, counts, k).sse == pytest.approx(_quadratic(values, counts, k), rel=1e-9)


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "two lumps"])
@pytest.mark.parametrize("k", [4, 16, 64])
def test_windows_lose_nothing(kind: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short way gives what the search of all positions gives."""
    values, counts = _weighted(7, 5000, kind)
    short = optimal_clusters(values, counts, k)
    monkeypatch.setattr(kmeans1d, "_COARSER", 10**9)
    full = optimal_clusters(values, counts, k)
    assert short.sse == pytest.approx(full.sse, rel=1e-9)


def test_a_wrong_solution_is_not_proven() -> None:
    """The proof fails for windows that do not hold the optimum, so it proves something."""
    values, counts = _weighted(3, 3000)
    sums = kmeans1d._Sums.of(values, counts.astype(np.float64))
    best = kmeans1d._best_path(sums, 8)
    good = kmeans1d._layers(sums, kmeans1d._windows(best, 8))
    assert kmeans1d._proven(sums, good, 8)
    windows = kmeans1d._windows(best, 8)
    windows[4] = (int(best[4]) + 5, windows[4][1])
    bad = kmeans1d._layers(sums, windows)
    assert bad[8].cost[-1] > good[8].cost[-1] * (1 + 1e-9)
    assert not kmeans1d._proven(sums, bad, 8)


@pytest.mark.parametrize("k", [3, 16])
def test_never_worse_than_lloyd(k: int) -> None:
    values, counts = _weighted(11, 4000, "heavy tails")
    best = optimal_clusters(values, counts, k)
    rng = np.random.default_rng(0)
    for _ in range(5):
        centroids = np.sort(rng.choice(values, k, replace=False))
        for _ in range(50):
            codes = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
            total = np.bincount(codes, counts, k)
            centroids = np.where(total > 0, np.bincount(codes, counts * values, k) / np.maximum(total, 1), centroids)
        lloyd = float(np.sum(counts * np.min((values[:, None] - centroids) ** 2, axis=1)))
        assert best.sse <= lloyd * (1 + 1e-12)


def test_a_local_optimum_is_left() -> None:
    """Lloyd's algorithm stays at {0, 1}, {10}, {20, 21} … started there; the best clusters are the lumps."""
    values, counts = np.array([0.0, 1.0, 10.0, 20.0, 21.0]), np.array([1, 1, 1, 1, 1])
    found = optimal_clusters(values, counts, 3)
    assert found.centroids.tolist() == [0.5, 10.0, 20.5]
    assert found.starts.tolist() == [0, 2, 3]
    assert found.sse == 1.0


def test_scaling_by_a_power_of_two_scales_the_result() -> None:
    values, counts = _weighted(5, 2000)
    base, scaled = optimal_clusters(values, counts, 16), optimal_clusters(values * 2.0**-12, counts, 16)
    assert np.array_equal(scaled.starts, base.starts)
    assert np.array_equal(scaled.centroids, base.centroids * 2.0**-12)
    assert scaled.sse == base.sse * 2.0**-24


def test_mirrored_values_give_the_same_error() -> None:
    values, counts = _weighted(6, 2000, "heavy tails")
    mirrored = optimal_clusters(-values[::-1], counts[::-1], 12)
    assert mirrored.sse == pytest.approx(optimal_clusters(values, counts, 12).sse, rel=1e-10)


def test_more_clusters_never_cost_more_and_gain_less_and_less() -> None:
    """The optimal cost is convex in k."""
    values, counts = _weighted(8, 1500)
    costs = np.array([optimal_clusters(values, counts, k).sse for k in range(1, 20)])
    assert np.all(np.diff(costs) < 0)
    assert np.all(np.diff(costs, 2) > -1e-9 * costs[0])


def test_one_far_value_gets_a_cluster_of_its_own() -> None:
    values, counts = _weighted(9, 3000)
    values, counts = np.append(values, 1e4), np.append(counts, 1)
    found = optimal_clusters(values, counts, 16)
    assert found.centroids[-1] == 1e4
    assert found.sse == pytest.approx(optimal_clusters(values[:-1], counts[:-1], 15).sse, rel=1e-6)


def test_as_many_clusters_as_values_cost_nothing() -> None:
    found = optimal_clusters(np.array([1.0, 5.0, 9.0]), np.array([3, 1, 2]), 8)
    assert (found.centroids.tolist(), found.starts.tolist(), found.sse) == ([1.0, 5.0, 9.0], [0, 1, 2], 0.0)


@pytest.mark.parametrize(
    ("values", "counts", "k"),
    [([], [], 2), ([2, 1], [1, 1], 1), ([1, 2], [1, 0], 1), ([1, 2], [1, 1], 0), ([1], [1, 1], 1)],
)
def test_refuses_what_is_no_histogram(values: list[float], counts: list[int], k: int) -> None:
    with pytest.raises(ValueError, match=r"k-means needs|ascending"):
        optimal_clusters(np.array(values), np.array(counts), k)
