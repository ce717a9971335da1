"""The best choice per layer under a budget: the multiple-choice knapsack problem, solved exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Chosen = tuple[int, ...]
_GAP = 1e-6  # relative; far below what a measurement resolves
_STATES = 200_000  # beyond so many the least promising are dropped


def least_error(errors: NDArray[np.float64], sizes: NDArray[np.float64], budget: float) -> Chosen:
    """Returns the choice per layer with the least total error that fits a budget.

    min Σ_l e[l, c_l]  subject to  Σ_l b[l, c_l] ≤ budget: a multiple-choice knapsack (Kellerer, Pferschy, Pisinger,
    "Knapsack Problems", 2004, ch. 11), solved to one millionth of the optimum by dynamic programming within the
    Lagrangian bound. Adding errors holds for mean squared errors that are uncorrelated between layers; the result is
    measured afterwards.

    Args:
        errors: [layers, choices], finite and not negative; NaN where a choice is not possible.
        sizes: [layers, choices] bytes.
        budget: bytes.

    Raises:
        UnsupportedError: even the smallest choices do not fit.
    """
    possible = ~(np.isnan(errors) | np.isnan(sizes))
    smallest = float(np.where(possible, sizes, np.inf).min(axis=1).sum())
    if smallest > budget:
        raise UnsupportedError(
            "the budget must hold the smallest choice of every layer", f"{budget:.0f} < {smallest:.0f} bytes"
        )
    return _minimum(errors, sizes, budget, possible)


def least_bytes(errors: NDArray[np.float64], sizes: NDArray[np.float64], most_error: float) -> Chosen:
    """Returns the choice per layer with the fewest bytes whose total error is within a limit.

    Args:
        errors: as in `least_error`.
        sizes: as in `least_error`.
        most_error: limit of Σ_l e[l, c_l].

    Raises:
        UnsupportedError: even the most exact choices are beyond it.
    """
    possible = ~(np.isnan(errors) | np.isnan(sizes))
    least = float(np.where(possible, errors, np.inf).min(axis=1).sum())
    if least > most_error:
        raise UnsupportedError(
            "the quality floor must be within reach of the most exact choices", f"error {least:.3g} > {most_error:.3g}"
        )
    return _minimum(sizes, errors, most_error, possible)


def total(table: NDArray[np.float64], chosen: Chosen) -> float:
    """Returns the sum of the chosen cells."""
    return float(table[np.arange(len(chosen)), list(chosen)].sum())


def _minimum(
    costs: NDArray[np.float64], weights: NDArray[np.float64], budget: float, possible: NDArray[np.bool_]
) -> Chosen:
    """Minimises the sum of costs with the sum of weights within the budget."""
    price = _price(costs, weights, budget, possible)
    known = _greedy(costs, weights, budget, possible)
    reduced = np.where(possible, costs + price * weights, np.inf)
    least = reduced.min(axis=1)
    # The Lagrangian bound: no choice within the budget costs less than Σ_l min_c (cost + price·weight) − price·budget.
    slack = total(costs, known) * (1.0 - _GAP) - (float(least.sum()) - price * budget)
    return _improved(costs, weights, budget, reduced - least[:, None], slack) or known


def _price(
    costs: NDArray[np.float64], weights: NDArray[np.float64], budget: float, possible: NDArray[np.bool_]
) -> float:
    """Returns the price of a unit of weight that gives the largest Lagrangian bound, by bisection of its slope."""
    rows = np.arange(len(costs))

    def fits(price: float) -> bool:
        reduced = np.where(possible, costs + price * weights, np.inf)
        return float(weights[rows, reduced.argmin(axis=1)].sum()) <= budget

    if fits(0.0):
        return 0.0
    unit = float(np.max(costs[possible])) / max(float(np.max(weights[possible])), 1e-300)
    low, high = -30.0, 30.0  # decades around the ratio of costs to weights
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(unit * 10.0**middle) else (middle, high)
    return unit * 10.0**high


def _improved(
    costs: NDArray[np.float64],
    weights: NDArray[np.float64],
    budget: float,
    excess: NDArray[np.float64],
    slack: float,
) -> Chosen | None:
    """Returns the cheapest choice within the budget whose excess over the bound is within the slack, if there is one.

    Dynamic programming over the layers. A state is dropped when another is no heavier and no dearer, when its excess
    shows that it cannot become better than what is known, or when the lightest rest does not fit.
    """
    lightest = np.where(np.isfinite(excess), weights, np.inf).min(axis=1)
    rest = np.append(np.cumsum(lightest[::-1])[::-1][1:], 0.0)
    weight, cost, over = np.zeros(1), np.zeros(1), np.zeros(1)
    steps: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for layer in range(len(costs)):
        options = np.flatnonzero(excess[layer] <= slack)
        pairs = ((weight, weights), (cost, costs), (over, excess))
        heavy, dear, beyond = ((sums[:, None] + table[layer, options]).ravel() for sums, table in pairs)
        keep = np.flatnonzero((beyond <= slack) & (heavy + rest[layer] <= budget))
        keep = _undominated(keep, heavy, dear)
        if len(keep) > _STATES:
            keep = np.sort(keep[np.argsort(beyond[keep], kind="stable")[:_STATES]])
        if not len(keep):
            return None
        steps.append((keep // len(options), options[keep % len(options)]))
        weight, cost, over = heavy[keep], dear[keep], beyond[keep]
    state, chosen = int(cost.argmin()), []
    for parents, options in reversed(steps):
        chosen.append(int(options[state]))
        state = int(parents[state])
    return tuple(reversed(chosen))


def _undominated(states: NDArray[np.intp], heavy: NDArray[np.float64], dear: NDArray[np.float64]) -> NDArray[np.intp]:
    """Returns the states that are cheaper than every lighter one."""
    if not len(states):
        return states
    states = states[np.lexsort((dear[states], heavy[states]))]
    cheapest = np.minimum.accumulate(dear[states])
    return states[np.append(True, dear[states][1:] < cheapest[:-1])]


def _greedy(
    costs: NDArray[np.float64], weights: NDArray[np.float64], budget: float, possible: NDArray[np.bool_]
) -> Chosen:
    """Returns a good feasible choice: from the lightest cells, the exchange with the best ratio while one fits."""
    light = np.where(possible, weights, np.inf)
    chosen = light.argmin(axis=1)
    room = budget - float(light.min(axis=1).sum())
    rows = np.arange(len(chosen))
    while True:
        gain = costs[rows, chosen][:, None] - costs
        price = weights - weights[rows, chosen][:, None]
        usable = possible & (gain > 0) & (price <= room)
        if not usable.any():
            return tuple(chosen.tolist())
        ratio = np.where(usable, gain / np.maximum(price, 1e-300), -np.inf)
        row, column = np.unravel_index(int(ratio.argmax()), ratio.shape)
        room -= float(price[row, column])
        chosen[row] = column
