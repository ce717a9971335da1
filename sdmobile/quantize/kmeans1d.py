"""Optimal k-means of weighted points on a line: a dynamic program over narrow windows, and a proof that they held it.

Clusters of an optimal solution are runs of consecutive values, so a solution is a path 0 = b_0 < … < b_k = n whose
edge (j, i) costs the squared error c(j, i) of the values j … i−1 about their mean. c has the Monge property
c(j, i) + c(j', i') ≤ c(j, i') + c(j', i) for j ≤ j' ≤ i ≤ i', hence (Grønlund et al., "Fast Exact k-Means, k-Medians
and Bregman Divergence Clustering in 1D", 2017; Aggarwal, Schieber and Tokuyama, "Finding a minimum-weight k-link path
in graphs with the concave Monge property", 1994)

* the best predecessor of i does not decrease with i, so all predecessors cost O(n log n);
* the optimal cost is convex in k and the optimal solutions for k−1 and k+1 interlace with that for k.

The windows of boundary m are [b_{m−1}, b_{m+1}] of a good solution: by interlacing they hold the optima of k−1, k and
k+1 clusters if that solution is optimal. The proof is linear programming duality: a potential F with
F(i) ≤ F(j) + c(j, i) + λ for all j < i shows that no k clusters cost less than F(n) − F(0) − kλ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROOF_TOLERANCE = 1e-12
"""Distance from the optimum that a proof may leave, as a share of the squared error with one cluster."""

_LLOYD_STEPS = 20
_ROUNDS = 3
_COARSER = 8
_FIRST_ROWS = 4


@dataclass(frozen=True, eq=False)
class Clustering:
    """The best k clusters.

    Args:
        centroids: float64 [k], ascending; means of the clusters.
        starts: int64 [k], index of the first value of each cluster.
        sse: sum of squared errors, weighted.
    """

    centroids: NDArray[np.float64]
    starts: NDArray[np.int64]
    sse: float


def optimal_clusters(values: NDArray[Any], counts: NDArray[Any], k: int) -> Clustering:
    """Returns the clusters with the least Σ counts · (value − centroid of its cluster)².

    Args:
        values: [n], strictly ascending, finite.
        counts: [n], positive.
        k: largest number of clusters; with n ≤ k each value is a cluster.

    Returns:
        min(k, n) clusters, optimal to PROOF_TOLERANCE of the error with one cluster.

    Raises:
        ValueError: no values, values not ascending, counts not positive or k < 1.
    """
    points, weights = np.asarray(values, np.float64), np.asarray(counts, np.float64)
    if k < 1 or points.ndim != 1 or points.shape != weights.shape or not points.size:
        raise ValueError(f"k-means needs k ≥ 1 and as many counts as values: {k}, {points.shape}, {weights.shape}")
    if not (np.all(np.isfinite(points)) and np.all(points[1:] > points[:-1]) and np.all(weights > 0)):
        raise ValueError("the values must be finite and ascending, the counts positive")
    if k >= points.size:
        return Clustering(points, np.arange(points.size), 0.0)
    # Around their mean and in units of their spread: what is summed is small and cannot overflow.
    mean = float(np.average(points, weights=weights))
    spread = float(max(points[-1] - mean, mean - points[0]))
    path = _best_path(_Sums.of((points - mean) / spread, weights), k)
    return _clustering(points, weights, path[:-1])


@dataclass(frozen=True, eq=False)
class _Sums:
    """Prefix sums of weight, weight · value and weight · value², float64 [n + 1]."""

    s0: NDArray[np.float64]
    s1: NDArray[np.float64]
    s2: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64], weights: NDArray[np.float64]) -> _Sums:
        moments = (weights, weights * values, weights * values * values)
        return cls(*(np.concatenate([[0.0], np.cumsum(m)]) for m in moments))

    @property
    def n(self) -> int:
        return len(self.s0) - 1


def _best_path(sums: _Sums, k: int) -> NDArray[np.int64]:
    """Returns the boundaries b_0 … b_k of the optimum."""
    if sums.n > 2 * _COARSER * k:
        for start in (_quick_path, _coarse_path):
            path = start(sums, k)
            for _ in range(_ROUNDS):
                layers = _layers(sums, _windows(path, k))
                path, before = _backtrack(layers, k), path
                if _proven(sums, layers, k):
                    return path
                if np.array_equal(path, before):
                    break
    everywhere = [(0, 0), *((m, sums.n - k + m) for m in range(1, k)), (sums.n, sums.n)]
    return _backtrack(_layers(sums, everywhere), k)


def _coarse_path(sums: _Sums, k: int) -> NDArray[np.int64]:
    """Returns the best solution with boundaries in a subset of the positions, dense where the values are sparse."""
    share = _density_share(sums)
    even = np.searchsorted(share, np.linspace(0, share[-1], sums.n // _COARSER))
    subset = np.unique(np.concatenate([even, np.arange(0, sums.n, _COARSER), [sums.n]]))
    return subset[_best_path(_Sums(sums.s0[subset], sums.s1[subset], sums.s2[subset]), k)]


def _density_share(sums: _Sums) -> NDArray[np.float64]:
    """Returns ∫ density^⅓ up to each value; the best clusters have nearly equal parts of it (Panter and Dite, 1951)."""
    weights = np.diff(sums.s0)
    gaps = np.gradient(np.diff(sums.s1) / weights)
    return np.cumsum(np.cbrt(weights * gaps * gaps))


def _quick_path(sums: _Sums, k: int) -> NDArray[np.int64]:
    """Returns a good solution: equal parts of ∫ density^⅓, then Lloyd's steps."""
    values = np.diff(sums.s1) / np.diff(sums.s0)
    share = _density_share(sums)
    inner = np.searchsorted(share, share[-1] * np.arange(1, k) / k)
    path = _increasing(np.concatenate([[0], inner, [sums.n]]))
    for _ in range(_LLOYD_STEPS):
        centroids = np.diff(sums.s1[path]) / np.diff(sums.s0[path])
        inner = np.searchsorted(values, (centroids[1:] + centroids[:-1]) / 2)
        moved = _increasing(np.concatenate([[0], inner, [sums.n]]))
        if np.array_equal(moved, path):
            break
        path = moved
    return path


def _increasing(path: NDArray[Any]) -> NDArray[np.int64]:
    """Returns the nearest strictly increasing boundaries with the same ends."""
    steps = np.arange(len(path))
    last = path[-1]
    up = np.maximum.accumulate(path - steps) + steps
    return np.minimum(up, last - steps[::-1]).astype(np.int64)


def _windows(path: NDArray[np.int64], k: int) -> list[tuple[int, int]]:
    """Returns the first and last position of boundary m, for m = 0 … k + 1."""
    n = int(path[-1])
    inner = [(max(int(path[m - 1]), m), int(path[min(m + 1, k)])) for m in range(1, k + 1)]
    return [(0, 0), *inner, (n, n)]


@dataclass(frozen=True, eq=False)
class _Layer:
    """Least cost of m clusters up to each position of a window, and where the last of them starts."""

    first: int
    cost: NDArray[np.float64]
    start: NDArray[np.int64]

    @property
    def positions(self) -> slice:
        return slice(self.first, self.first + len(self.cost))


def _layers(sums: _Sums, windows: list[tuple[int, int]]) -> list[_Layer]:
    layers = [_Layer(0, np.zeros(1), np.zeros(1, np.int64))]
    for low, high in windows[1:]:
        before = layers[-1]
        cost, start = _row_minima(sums, before.cost, before.first, low, high)
        layers.append(_Layer(low, cost, start))
    return layers


def _backtrack(layers: list[_Layer], k: int) -> NDArray[np.int64]:
    path = np.empty(k + 1, np.int64)
    path[k] = layers[k].positions.stop - 1
    for m in range(k, 0, -1):
        path[m - 1] = layers[m].start[path[m] - layers[m].first]
    return path


def _proven(sums: _Sums, layers: list[_Layer], k: int) -> bool:
    """Returns whether no k clusters cost noticeably less than those of the windows."""
    n = sums.n
    fewer, cost, more = (float(layers[m].cost[-1]) for m in (k - 1, k, k + 1))
    if layers[k - 1].positions.stop - 1 != n:
        fewer = 2 * cost - more
    price = (fewer - more) / 2
    potential = np.full(n + 1, np.inf)
    for m, layer in enumerate(layers):
        part = potential[layer.positions]
        np.minimum(part, layer.cost + m * price, out=part)
    reachable = _row_minima(sums, potential[:-1], 0, 1, n)[0] + price
    violation = max(0.0, float(np.max(potential[1:] - reachable)))
    gap = cost - (float(potential[n]) - k * price) + k * violation
    return gap <= PROOF_TOLERANCE * float(sums.s2[n])


def _row_minima(
    sums: _Sums, base: NDArray[np.float64], first: int, low: int, high: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns min over j < i of base(j) + c(j, i), and the best j, for the positions i = low … high.

    base holds the positions first, first + 1, …; first < low. Rows are done coarse to fine: the best j of a row lies
    between those of its neighbours, so each level looks at each column once.
    """
    columns, rows = slice(first, first + len(base)), slice(low, high + 1)
    pairs = _Pairs(base - sums.s2[columns], sums.s0[columns], sums.s1[columns], sums.s0[rows], sums.s1[rows])
    count = high - low + 1
    value, best = np.empty(count), np.empty(count, np.int64)
    step = 1 << (count // _FIRST_ROWS).bit_length()
    with np.errstate(divide="ignore", invalid="ignore"):
        coarse = slice(0, count, step)
        value[coarse], best[coarse] = pairs.anywhere(coarse)
        while step > 1:
            between = slice(step // 2, count, step)
            limits = best[::step]
            if len(range(*between.indices(count))) == len(limits):
                limits = np.append(limits, len(base) - 1)
            value[between], best[between] = pairs.within(between, limits)
            step //= 2
    return value + sums.s2[rows], best + first


@dataclass(frozen=True, eq=False)
class _Pairs:
    """g(j) − (S1(i) − S1(j))² / (S0(i) − S0(j)) for columns j and rows i; infinite unless j < i.

    With g(j) = base(j) − S2(j) this is base(j) + c(j, i) − S2(i).
    """

    g: NDArray[np.float64]
    s0: NDArray[np.float64]
    s1: NDArray[np.float64]
    row0: NDArray[np.float64]
    row1: NDArray[np.float64]

    def anywhere(self, rows: slice) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Returns the least value of each row and its column."""
        cost = self._cost(self.row0[rows][:, None], self.row1[rows][:, None], slice(None))
        best = np.argmin(cost, axis=1)
        return np.take_along_axis(cost, best[:, None], 1)[:, 0], best

    def within(self, rows: slice, limits: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Returns the least value of row r in the columns limits[r] … limits[r + 1], and its column."""
        row0, row1 = self.row0[rows], self.row1[rows]
        best = limits[1:].copy()
        value = self._cost(row0, row1, best)
        lengths = np.diff(limits)
        filled = np.flatnonzero(lengths)
        if not len(filled):
            return value, best
        # The runs follow each other without gap, so that the columns are slices and need no gather.
        begin = int(limits[0])
        cost = self._cost(np.repeat(row0, lengths), np.repeat(row1, lengths), slice(begin, int(limits[-1])))
        starts = (limits[:-1] - begin)[filled]
        least = np.minimum.reduceat(cost, starts)
        hits = np.flatnonzero(cost == np.repeat(least, lengths[filled]))
        better = least <= value[filled]
        chosen = filled[better]
        value[chosen] = least[better]
        best[chosen] = hits[np.searchsorted(hits, starts[better])] + begin
        return value, best

    def _cost(self, row0: NDArray[np.float64], row1: NDArray[np.float64], columns: Any) -> NDArray[np.float64]:
        width = row0 - self.s0[columns]
        cost = row1 - self.s1[columns]
        cost *= cost
        cost /= width
        np.subtract(self.g[columns], cost, out=cost)
        cost[width <= 0] = np.inf
        return cost


def _clustering(points: NDArray[np.float64], weights: NDArray[np.float64], starts: NDArray[np.int64]) -> Clustering:
    """Returns means and error, summed anew about each mean."""
    lengths = np.diff(np.append(starts, len(points)))
    origin = np.repeat(points[starts], lengths)
    totals = np.add.reduceat(weights, starts)
    centroids = points[starts] + np.add.reduceat(weights * (points - origin), starts) / totals
    errors = points - np.repeat(centroids, lengths)
    return Clustering(centroids, starts, float(np.dot(weights, errors * errors)))
