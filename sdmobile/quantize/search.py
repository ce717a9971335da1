"""The best choice per layer under a budget: the multiple-choice knapsack problem, solved exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Chosen = tuple[int, ...]
_GAP = 1e-6  # relative; far below what a measurement resolves
_SECONDS = 60.0


def least_error(errors: NDArray[np.float64], sizes: NDArray[np.float64], budget: float) -> Chosen:
    """Returns the choice per layer with the least total error that fits a budget.

    min Σ_l e[l, c_l]  subject to  Σ_l b[l, c_l] ≤ budget: a multiple-choice knapsack (Kellerer, Pferschy, Pisinger,
    "Knapsack Problems", 2004, ch. 11), solved to optimality by branch and bound (HiGHS in SciPy). Adding errors holds
    for mean squared errors that are uncorrelated between layers; the result is measured afterwards.

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
    known = _greedy(costs, weights, budget, possible)
    bound = total(costs, known)
    # A cell that alone costs more than a known solution is in no better one; without it numbers are of one size.
    keep = possible & (costs - np.where(possible, costs, np.inf).min(axis=1, keepdims=True) <= bound)
    keep[np.arange(len(known)), list(known)] = True
    limit = budget
    for _ in range(4):
        found = _solved(costs, weights, limit, keep)
        if found is None or total(costs, found) > bound:
            return known
        if total(weights, found) <= budget:
            return found
        limit -= 2.0 * (total(weights, found) - budget)  # the solver's tolerance let a little too much in
    return known


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


def _solved(
    costs: NDArray[np.float64], weights: NDArray[np.float64], budget: float, keep: NDArray[np.bool_]
) -> Chosen | None:
    """Solves the integer program over the kept cells; None where HiGHS found nothing in time."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    rows, columns = np.nonzero(keep)
    cost, weight = costs[rows, columns], weights[rows, columns]
    lowest = np.array([costs[row][keep[row]].min() for row in range(len(keep))])
    excess = cost - lowest[rows]
    scale = excess.max() or 1.0
    one_each = coo_array((np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=(len(keep), len(rows)))
    unit = max(abs(budget), 1e-300)
    result = milp(
        1e6 * excess / scale,
        integrality=np.ones(len(rows)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each.tocsr(), 1, 1),
            LinearConstraint(1e3 * weight[None, :] / unit, -np.inf, 1e3 * budget / unit),
        ],
        options={"mip_rel_gap": _GAP, "time_limit": _SECONDS},
    )
    if result.x is None:
        return None
    values = np.full(keep.shape, -1.0)
    values[rows, columns] = result.x
    return tuple(values.argmax(axis=1).tolist())
