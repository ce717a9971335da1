"""From sensitivities to a recipe: the best choice per layer under a budget, near-optimal ones measured, the best kept.

The choice is the multiple-choice knapsack problem, solved exactly for several models of the errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.quantize.recipes import Override, Recipe
from sdmobile.quantize.schemes import Float16, parse_scheme
from sdmobile.quantize.sensitivity import DIRECT, PROBES, Sensitivity, rank_correlation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.quantize.sensitivity_study import EncodedWeights, Quality, Study

Chosen = tuple[int, ...]
_GAP = 1e-6  # relative; far below what a measurement resolves
_STATES = 200_000  # beyond so many the least promising are dropped
_ROUNDS = 4  # of tightening towards a quality floor


@dataclass(frozen=True)
class Goal:
    """What is asked of a recipe: a size, or a quality.

    Args:
        bits: average bits per weight at most, tables and scales included, over all layers of the table.
        psnr_db: PSNR of the component's output at least; one of the two is None.
    """

    bits: float | None = None
    psnr_db: float | None = None

    def __post_init__(self) -> None:
        if (self.bits is None) == (self.psnr_db is None):
            raise ValueError("a goal is either a size or a quality")

    @property
    def name(self) -> str:
        """`mixed-4.0`, or `mixed-40dB`."""
        return f"mixed-{self.bits:.1f}" if self.bits is not None else f"mixed-{self.psnr_db:g}dB"


@dataclass(frozen=True)
class Candidate:
    """One allocation.

    Args:
        model: which errors it is the optimum of.
        chosen: column of the table, per layer.
        stored_bytes: of all layers of the table.
        predicted_db: PSNR if errors of layers just add.
        measured: on inputs of other prompts than the analysis; None before it was measured.
    """

    model: str
    chosen: Chosen
    stored_bytes: float
    predicted_db: float
    measured: Quality | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns figures without the allocation."""
        measured = None if self.measured is None else round(self.measured.psnr_db, 3)
        return {
            "model": self.model,
            "stored_bytes": int(self.stored_bytes),
            "predicted_db": round(self.predicted_db, 3),
            "measured_db": measured,
        }


def error_models(sensitivity: Sensitivity) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yields the tables of errors that candidates are optimal for: measured, estimated, and their geometric mean."""
    yield "best", sensitivity.best
    direct, probes = sensitivity.errors.get(DIRECT), sensitivity.errors.get(PROBES)
    if direct is not None and probes is not None:
        yield PROBES, probes
        mean = np.sqrt(direct * probes)
        yield "mean", np.where(np.isnan(mean), sensitivity.best, mean)


def candidates(sensitivity: Sensitivity, bits: float) -> list[Candidate]:
    """Returns the optimal allocation for a size under each model of the errors, each different one once."""
    budget = bits * sensitivity.total_elements / 8.0
    different: dict[Chosen, Candidate] = {}
    for model, errors in error_models(sensitivity):
        chosen = least_error(errors, sensitivity.stored_bytes, budget)
        different.setdefault(chosen, _candidate(sensitivity, model, chosen))
    return list(different.values())


def _candidate(sensitivity: Sensitivity, model: str, chosen: Chosen) -> Candidate:
    predicted = sensitivity.psnr_db(total(sensitivity.best, chosen))
    return Candidate(model, chosen, total(sensitivity.stored_bytes, chosen), predicted)


def search(sensitivity: Sensitivity, goal: Goal, study: Study | None, encoded: EncodedWeights | None) -> Recipe:
    """Returns the recipe for a goal, the best measured of the candidates.

    Args:
        sensitivity: what `analyse` returned.
        goal: size or quality.
        study: the component with recorded inputs of other prompts than the analysis, which candidates are measured on;
            None to trust the prediction.
        encoded: compressed weights, wanted together with `study`.
    """
    measure = _Measure(sensitivity, study, encoded)
    if goal.bits is not None:
        tried = [measure(candidate) for candidate in candidates(sensitivity, goal.bits)]
    else:
        tried = list(_towards(sensitivity, goal.psnr_db or 0.0, measure))
    return recipe_of(sensitivity, goal.name, _best(tried, goal), _evidence(sensitivity, goal, tried))


def _towards(sensitivity: Sensitivity, floor: float, measure: _Measure) -> Iterator[Candidate]:
    """Yields ever more exact allocations until one reaches the floor when measured."""
    asked = floor
    for _ in range(_ROUNDS):
        chosen = least_bytes(sensitivity.best, sensitivity.stored_bytes, sensitivity.error_of(asked))
        candidate = measure(_candidate(sensitivity, f"at least {asked:.2f} dB", chosen))
        yield candidate
        reached = candidate.predicted_db if candidate.measured is None else candidate.measured.psnr_db
        if reached >= floor:
            return
        asked += floor - reached + 0.02


def _best(tried: Sequence[Candidate], goal: Goal) -> Candidate:
    """Returns the best measured for a size; the smallest that reaches the floor, or else the most exact."""

    def level(candidate: Candidate) -> float:
        return candidate.predicted_db if candidate.measured is None else candidate.measured.psnr_db

    reached = [c for c in tried if goal.psnr_db is not None and level(c) >= goal.psnr_db]
    return min(reached, key=lambda c: c.stored_bytes) if reached else max(tried, key=level)


@dataclass(frozen=True)
class _Measure:
    sensitivity: Sensitivity
    study: Study | None
    encoded: EncodedWeights | None

    def __call__(self, candidate: Candidate) -> Candidate:
        if self.study is None or self.encoded is None:
            return candidate
        recipe = recipe_of(self.sensitivity, candidate.model, candidate, {})
        weights, _ = self.encoded.of_recipe(recipe)
        return replace(candidate, measured=self.study.quality(self.study.outputs(), weights))


def recipe_of(sensitivity: Sensitivity, name: str, candidate: Candidate, evidence: Mapping[str, Any]) -> Recipe:
    """Returns the recipe of an allocation: module names and schemes only, so that it fits fine-tunes too.

    A layer that the recipe does not name stays float16.
    """
    overrides = tuple(
        Override(f"{sensitivity.component}/{layer}", parse_scheme(sensitivity.schemes[column]))
        for layer, column in zip(sensitivity.layers, candidate.chosen, strict=True)
    )
    return Recipe(name, Float16(), overrides, components=(sensitivity.component,), evidence=evidence)


def _evidence(sensitivity: Sensitivity, goal: Goal, tried: Sequence[Candidate]) -> dict[str, Any]:
    best = _best(tried, goal)
    counts = {name: best.chosen.count(i) for i, name in enumerate(sensitivity.schemes) if i in best.chosen}
    return {
        "component": sensitivity.component,
        "source_hash": sensitivity.source_hash,
        "goal": {"bits": goal.bits, "psnr_db": goal.psnr_db},
        "stored_bytes": int(best.stored_bytes),
        "bits_per_weight": round(sensitivity.bits(best.stored_bytes), 4),
        "layers_per_scheme": counts,
        "predicted_db": round(best.predicted_db, 3),
        "measured_db": best.to_json()["measured_db"],
        "candidates": [candidate.to_json() for candidate in tried],
        "most_sensitive": _most_sensitive(sensitivity),
        "rank_correlation": rank_correlation(sensitivity),
        "analysis": dict(sensitivity.settings),
    }


def _most_sensitive(sensitivity: Sensitivity, count: int = 10) -> list[dict[str, Any]]:
    """Returns the layers whose error per weight is largest, with the PSNR of the output when only they are coarse."""
    errors = sensitivity.best
    column = int(np.nanargmax(np.nan_to_num(errors, nan=-1.0).sum(axis=0)))
    order = np.argsort(-np.nan_to_num(errors[:, column] / sensitivity.elements, nan=-1.0), kind="stable")[:count]
    return [
        {
            "module": sensitivity.layers[i],
            "scheme": sensitivity.schemes[column],
            "psnr_db": round(sensitivity.psnr_db(float(errors[i, column])), 2),
        }
        for i in order.tolist()
    ]


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
