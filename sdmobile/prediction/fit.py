"""Fits the few parameters of the latency model to measured times, and measures the fit by leaving rows out.

The fit is the most probable set of parameters p under measured times t and what is known of the hardware beforehand:

    minimise  Σ_rows ρ( ln(t̂(p) / t) / σ )²  +  Σ_i ( ln(p_i / guess_i) / ln(spread_i) )²

ρ is SciPy's soft_l1, so that one odd row does not bend all parameters. Parameters are searched on a logarithmic scale,
within physical bounds: no efficiency above 1, no bandwidth above that of the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sdmobile.errors import UnsupportedError

_SEARCHES, _SMALL = 10, 1e-6
"""A search along an edge, where a kernel's compute and memory times are equal, takes small steps: it is begun again
from where it stopped until the sum of squares falls by less than a millionth."""

Vector = np.ndarray
Predictor = Callable[[Vector], Vector]


@dataclass(frozen=True)
class Parameter:
    """What is known of a parameter before the fit.

    Args:
        name: such as "efficiency.conv".
        guess: from the hardware's facts or from another measurement.
        spread: factor by which the guess may well be wrong; it weighs the guess against the rows.
        low, high: physical bounds.
        reason: where the guess and the bounds come from.
    """

    name: str
    guess: float
    spread: float
    low: float
    high: float
    reason: str = ""


@dataclass(frozen=True)
class Problem:
    """Measured times and a model of them.

    Args:
        parameters: what is fitted.
        predict: parameters (their values, in order) to seconds of every row.
        measured: seconds of every row.
        sigma: relative error that a row may well have; weighs rows against guesses.
        weights: of the rows; None for equal ones.
    """

    parameters: tuple[Parameter, ...]
    predict: Predictor
    measured: Vector
    sigma: float = 0.08
    weights: Vector | None = None

    def errors(self, values: Vector) -> Vector:
        """Returns predicted / measured − 1 of every row."""
        return self.predict(values) / self.measured - 1.0


def fit(problem: Problem, without: Sequence[int] = ()) -> Vector:
    """Returns the parameters' values.

    Args:
        without: rows that are left out.

    Raises:
        UnsupportedError: the search did not converge.
    """
    from scipy.optimize import least_squares

    keep = np.setdiff1d(np.arange(len(problem.measured)), np.asarray(without, int))
    guess = np.log([p.guess for p in problem.parameters])
    spread = np.log([p.spread for p in problem.parameters])
    bounds = np.log([p.low for p in problem.parameters]), np.log([p.high for p in problem.parameters])
    target = np.log(problem.measured)
    weights = np.ones(len(problem.measured)) if problem.weights is None else problem.weights

    def residuals(logs: Vector) -> Vector:
        misses = (np.log(problem.predict(np.exp(logs))) - target) / problem.sigma * weights
        # The robust loss is applied here and not by SciPy, because the guesses shall keep a quadratic one.
        robust = np.sign(misses) * np.sqrt(2.0 * (np.sqrt(1.0 + misses**2) - 1.0))
        return np.concatenate([robust[keep], (logs - guess) / spread])

    start = np.clip(guess, bounds[0] + 1e-9, bounds[1] - 1e-9)
    cost = math.inf
    for _ in range(_SEARCHES):
        solution = least_squares(residuals, start, bounds=bounds, xtol=1e-9, ftol=1e-9, gtol=1e-9, max_nfev=300)
        if solution.success or cost - solution.cost <= _SMALL * solution.cost:
            return np.exp(solution.x)
        start, cost = np.clip(solution.x, bounds[0] + 1e-9, bounds[1] - 1e-9), float(solution.cost)
    raise UnsupportedError("the fit must converge", solution.message, "Look at the rows and the guesses")


def leave_one_out(problem: Problem, groups: Sequence[str] | None = None) -> Vector:
    """Returns every row's predicted seconds by a fit that has not seen the row.

    Args:
        groups: rows of the same group are left out together, None for each row by itself.
    """
    names = list(groups) if groups is not None else [str(i) for i in range(len(problem.measured))]
    predicted = np.empty(len(problem.measured))
    for name in dict.fromkeys(names):
        rows = [i for i, other in enumerate(names) if other == name]
        predicted[rows] = problem.predict(fit(problem, rows))[rows]
    return predicted


@dataclass(frozen=True)
class Quality:
    """How far predictions are from measurements.

    Args:
        median, p90, worst: of |predicted / measured − 1|.
        rank_correlation: Spearman's.
        low, high: factors that turn a prediction into an interval of at least `COVERAGE`; None with too few rows.
    """

    median: float
    p90: float
    worst: float
    rank_correlation: float
    low: float | None
    high: float | None


COVERAGE = 0.8
"""Share of new rows that an interval holds, if these are like the rows it was made from."""


def interval(ratios: Vector) -> tuple[float, float] | None:
    """Returns the factors between which measured / predicted of a new row lies, None if the rows are too few to say.

    With n ratios r₁ ≤ … ≤ rₙ of rows that the predictions had not seen, and α = 1 − `COVERAGE`,

        low = r_⌊(n+1)·α/2⌋,   high = r_⌈(n+1)·(1−α/2)⌉

    hold a further exchangeable ratio with a probability of at least `COVERAGE` (split conformal prediction with its
    finite-sample correction; Lei et al. 2018, doi 10.1080/01621459.2017.1307116). That takes nine rows for 80 %.

    Args:
        ratios: measured / predicted.
    """
    tail, count = (1.0 - COVERAGE) / 2.0, len(ratios)
    below = math.floor((count + 1) * tail + 1e-9)
    if below < 1:
        return None
    ordered = np.sort(ratios)
    low, high = float(ordered[below - 1]), float(ordered[count - below])
    return min(1.0, low), max(1.0, high)  # an interval holds what was predicted


def farther(first: Vector, second: Vector) -> Vector:
    """Returns of each pair of ratios the one that is farther from 1, as a factor."""
    return np.where(np.abs(np.log(first)) > np.abs(np.log(second)), first, second)


def quality(predicted: Vector, measured: Vector) -> Quality:
    """Returns the statistics of a set of predictions."""
    from scipy.stats import spearmanr

    errors, ratios = np.abs(predicted / measured - 1.0), measured / predicted
    low, high = interval(ratios) or (None, None)
    correlation = float(np.asarray(spearmanr(predicted, measured)[0]))  # pyright: ignore
    return Quality(
        median=float(np.median(errors)),
        p90=float(np.quantile(errors, 0.9)),
        worst=float(errors.max()),
        rank_correlation=1.0 if math.isnan(correlation) else correlation,
        low=low,
        high=high,
    )
