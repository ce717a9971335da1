"""The fit of the Adreno 740 with everything that is reported about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks.calibration import adreno
from benchmarks.calibration.rows import PublishedRow, published_rows
from sdmobile.prediction.fit import Quality, farther, fit, interval, leave_one_out, quality

DIGITS = 4  # of a fitted value; more would only say which machine ran the search


@dataclass(frozen=True)
class RowResult:
    """A row with what the model says.

    Args:
        row: as published.
        predicted: seconds by the fit of all rows.
        without_family: seconds by the fit without any model of this design; None for a row that no fit has seen.
        without_publication: seconds by the fit without any row of this publication; None likewise.
    """

    row: PublishedRow
    predicted: float
    without_family: float | None = None
    without_publication: float | None = None

    def error(self, seconds: float | None) -> float | None:
        """Returns seconds / published − 1; None without seconds."""
        return None if seconds is None else seconds / self.row.seconds - 1.0


@dataclass(frozen=True)
class AdrenoFit:
    """What was fitted, and how well it holds.

    Args:
        values: of the parameters, by name.
        fitted: rows of the fit.
        checks: rows that were only compared.
        by_row: quality of the predictions of single rows left out.
        by_family: where all models of one design are left out.
        by_publication: where all rows of one publication are left out.
        interval: factors on a prediction, from the worse of a row's two stricter predictions.
    """

    values: dict[str, float]
    fitted: tuple[RowResult, ...]
    checks: tuple[RowResult, ...]
    by_row: Quality
    by_family: Quality
    by_publication: Quality
    interval: tuple[float, float] | None


@cache
def adreno_fit() -> AdrenoFit:
    """Fits the table's rows; under ten seconds."""
    rows = adreno.fit_rows()
    problem = adreno.problem(rows)
    found = [rounded(value) for value in fit(problem)]
    predicted, measured = problem.predict(np.array(found)), problem.measured
    families = leave_one_out(problem, [row.family for row in rows])
    publications = leave_one_out(problem, [row.publication for row in rows])
    others = tuple(row for row in published_rows(adreno.TABLE) if row.use == "check")
    checked = adreno.problem(others).predict(np.array(found)) if others else ()
    return AdrenoFit(
        values={parameter.name: value for parameter, value in zip(adreno.PARAMETERS, found, strict=True)},
        fitted=tuple(
            RowResult(row, *map(float, seconds))
            for row, *seconds in zip(rows, predicted, families, publications, strict=True)
        ),
        checks=tuple(RowResult(row, float(seconds)) for row, seconds in zip(others, checked, strict=True)),
        by_row=quality(leave_one_out(problem), measured),
        by_family=quality(families, measured),
        by_publication=quality(publications, measured),
        interval=interval(farther(measured / families, measured / publications)),
    )


def rounded(value: float) -> float:
    """Returns a value with `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")
