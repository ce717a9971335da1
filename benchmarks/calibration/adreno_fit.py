"""The fit of the Adreno 740 with everything that is reported about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks.calibration import adreno
from benchmarks.calibration.rows import PublishedRow, published_rows
from sdmobile.prediction.fit import Quality, fit, leave_one_out, quality

DIGITS = 4  # of a fitted value; more would only say which machine ran the search


@dataclass(frozen=True)
class RowResult:
    """A row with what the model says.

    Args:
        row: as published.
        predicted: seconds by the fit of all rows.
        left_out: seconds by the fit without this row; None for a row that no fit has seen anyway.
    """

    row: PublishedRow
    predicted: float
    left_out: float | None

    @property
    def error(self) -> float:
        """Returns predicted / published − 1 of the prediction that has not seen the row."""
        return (self.predicted if self.left_out is None else self.left_out) / self.row.seconds - 1.0


@dataclass(frozen=True)
class AdrenoFit:
    """What was fitted, and how well it holds.

    Args:
        values: of the parameters, by name.
        fitted: rows of the fit.
        checks: rows that were only compared.
        left_out: quality of the predictions for left-out rows.
        on_gpu: the same for the rows whose models ran on the GPU as a whole.
        by_family: where a row's whole family is left out.
    """

    values: dict[str, float]
    fitted: tuple[RowResult, ...]
    checks: tuple[RowResult, ...]
    left_out: Quality
    on_gpu: Quality
    by_family: Quality


@cache
def adreno_fit() -> AdrenoFit:
    """Fits the table's rows; under ten seconds."""
    rows = adreno.fit_rows()
    problem = adreno.problem(rows)
    found = [rounded(value) for value in fit(problem)]
    predicted, without = problem.predict(np.array(found)), leave_one_out(problem)
    strict = leave_one_out(problem, [row.family for row in rows])
    whole = np.array([adreno.work_of(row).cpu_macs == 0.0 for row in rows])
    others = tuple(row for row in published_rows(adreno.TABLE) if row.use == "check")
    checked = adreno.problem(others).predict(np.array(found)) if others else ()
    return AdrenoFit(
        values={parameter.name: value for parameter, value in zip(adreno.PARAMETERS, found, strict=True)},
        fitted=tuple(RowResult(*each) for each in zip(rows, map(float, predicted), map(float, without), strict=True)),
        checks=tuple(RowResult(row, float(seconds), None) for row, seconds in zip(others, checked, strict=True)),
        left_out=quality(without, problem.measured),
        on_gpu=quality(without[whole], problem.measured[whole]),
        by_family=quality(strict, problem.measured),
    )


def rounded(value: float) -> float:
    """Returns a value with `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")
