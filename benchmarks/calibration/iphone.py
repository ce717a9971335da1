"""Fits the units of the iPhones to published Core ML times.

    python -m benchmarks.calibration.iphone

All chips share one set of parameters: fractions of a chip's peak, a share of its memory's peak, and seconds per kernel
and inference. A new chip thus needs its two peaks only. What a chip does beside that is a factor on its times, which a
prior holds near 1; so is what a publication does not tell of its conditions, which counts for no prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from benchmarks.calibration.iphone_rows import CHIPS, PUBLICATIONS, PhoneRow, kernels, phone_rows
from sdmobile.prediction.fit import Parameter, Problem, Quality, farther, fit, interval, leave_one_out, quality
from sdmobile.prediction.kernels.core_ml import Engine
from sdmobile.prediction.latency import Features, Parameters, features, seconds

_NEURAL_CHIPS = ("A14", "A15", "A16", "A17 Pro")
_SHARED = {"matmul": ("matmul", "attention"), "conv": ("conv",), "depthwise": ("depthwise",)}

NEURAL_ENGINE = (
    Parameter("efficiency.conv", 0.5, 3.0, 0.01, 1.0, "unknown; between a tenth and all of the peak"),
    Parameter("efficiency.matmul", 0.4, 3.0, 0.01, 1.0, "unknown; between a tenth and all of the peak"),
    Parameter("efficiency.depthwise", 0.05, 4.0, 0.001, 1.0, "one tap per channel fills little of a matrix unit"),
    Parameter("bandwidth", 1.0, 4.0, 0.1, 10.0, "of the memory's peak; above 1 where tensors stay on the chip"),
    Parameter("dispatch", 2e-6, 5.0, 1e-8, 1e-4, "a compiled program, not a queue of commands"),
    Parameter("fixed", 2e-4, 3.0, 1e-6, 2e-3, "a call of Core ML"),
    *(Parameter(f"chip.{chip}", 1.0, 1.15, 0.5, 2.0, "what its peaks do not tell") for chip in _NEURAL_CHIPS),
    *(Parameter(f"publication.{name}", 1.0, 1.15, 0.5, 2.0, "unpublished conditions") for name in PUBLICATIONS),
)
GPU = (
    Parameter("efficiency.conv", 0.5, 2.0, 0.05, 1.0, "usual for Metal kernels; shared by all products"),
    Parameter("bandwidth", 0.8, 1.5, 0.2, 2.0, "of the memory's peak"),
    Parameter("dispatch", 5e-6, 3.0, 1e-7, 1e-4, "a command of an encoded graph"),
    Parameter("fixed", 1e-3, 3.0, 1e-5, 1e-1, "a call of Core ML"),
)


@dataclass(frozen=True)
class PhoneFit:
    """A fit and how far it can be trusted.

    Args:
        rows: what was fitted.
        values: parameters by name; bandwidth as a share of the memory's peak.
        predicted: seconds of every row by the fit.
        left_out: seconds of every row by the fit to the other designs.
        without_publication: by the fit to the other publications.
        quality, by_publication: of these predictions.
        interval: factors from the worse of a row's two; None for the GPU, whose only rows are Macs' of one publication.
    """

    rows: tuple[PhoneRow, ...]
    values: Mapping[str, float]
    predicted: np.ndarray
    left_out: np.ndarray
    without_publication: np.ndarray
    quality: Quality
    by_publication: Quality
    interval: tuple[float, float] | None


@cache
def fitted(engine: Engine) -> PhoneFit:
    """Fits one unit to its rows, and leaves out families and publications; the GPU's rows are of one of each."""
    rows = tuple(row for row in phone_rows() if row.engine == engine and row.use == "fit")
    problem = _problem(engine, rows)
    values = fit(problem)
    own = engine == "neural-engine"
    families = leave_one_out(problem, [row.family for row in rows] if own else None)
    publications = leave_one_out(problem, [row.publication for row in rows]) if own else families
    measured = problem.measured
    found = interval(farther(measured / families, measured / publications)) if own else None
    by_name = dict(zip((p.name for p in problem.parameters), values.tolist(), strict=True))
    judged = quality(families, measured), quality(publications, measured)
    return PhoneFit(rows, by_name, problem.predict(values), families, publications, *judged, found)


def predict_row(row: PhoneRow, values: Mapping[str, float]) -> float:
    """Returns the seconds of a row by fitted values, its publication's factor included."""
    return _seconds(row, features(kernels(row)), values)


def parameters(chip: str, values: Mapping[str, float]) -> Parameters:
    """Returns the parameters of the latency model for a chip."""
    speed = 1.0 / values.get(f"chip.{chip}", 1.0)
    efficiency = {
        category: speed * values.get(f"efficiency.{name}", values["efficiency.conv"])
        for name, categories in _SHARED.items()
        for category in categories
    }
    bandwidth = speed * values["bandwidth"] * CHIPS[chip].dram
    return Parameters(efficiency, bandwidth, values["dispatch"] / speed, values["fixed"] / speed)


def _problem(engine: Engine, rows: Sequence[PhoneRow]) -> Problem:
    known = NEURAL_ENGINE if engine == "neural-engine" else GPU
    data = [features(kernels(row)) for row in rows]
    names = [parameter.name for parameter in known]

    def predict(values: np.ndarray) -> np.ndarray:
        by_name = dict(zip(names, values.tolist(), strict=True))
        return np.array([_seconds(row, each, by_name) for row, each in zip(rows, data, strict=True)])

    return Problem(known, predict, np.array([row.seconds for row in rows]), sigma=0.15)


def _seconds(row: PhoneRow, known: Features, values: Mapping[str, float]) -> float:
    chip = CHIPS[row.chip]
    peak = chip.neural_macs if row.engine == "neural-engine" else chip.gpu_macs
    own = parameters(row.chip, values)
    factor = values.get(f"publication.{row.publication}", 1.0)
    return factor * (row.calls * own.fixed + float(seconds(known, peak, own).sum()))


def report(engine: Engine) -> dict[str, Any]:
    """Returns the fit as a JSON object: parameters, every row with both predictions, and the quality."""
    found = fitted(engine)
    checks = [row for row in phone_rows() if row.engine == engine and row.use == "check"]
    return {
        "parameters": dict(found.values),
        "rows": [
            {
                "model": row.model,
                "chip": row.chip,
                "published_ms": row.seconds * 1e3,
                "fitted_ms": fitted_s * 1e3,
                "family_left_out_ms": left_s * 1e3,
                "publication_left_out_ms": without_s * 1e3,
            }
            for row, fitted_s, left_s, without_s in zip(
                found.rows, found.predicted, found.left_out, found.without_publication, strict=True
            )
        ],
        "checks": [
            {"model": r.model, "published_ms": r.seconds * 1e3, "predicted_ms": predict_row(r, found.values) * 1e3}
            for r in checks
        ],
        "families_left_out": vars(found.quality),
        "publications_left_out": vars(found.by_publication),
        "interval": found.interval,
    }


if __name__ == "__main__":
    import json
    import sys

    engines: tuple[Engine, Engine] = ("neural-engine", "gpu")
    json.dump({engine: report(engine) for engine in engines}, sys.stdout, indent=2)
    sys.stdout.write("\n")
