"""Fits the units of the iPhones to published Core ML times.

    python -m benchmarks.calibration.iphone

All chips share one set of parameters: fractions of a chip's peak, a share of its memory's peak, and seconds per kernel
and inference. A new chip thus needs its two peaks only, which is also how far the prediction for it can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.calibration.iphone_rows import CHIPS, PhoneRow, kernels, phone_rows
from sdmobile.prediction.fit import Parameter, Problem, Quality, fit, leave_one_out, quality
from sdmobile.prediction.kernels.core_ml import Engine
from sdmobile.prediction.latency import Features, Parameters, features, seconds

_SHARED = {"matmul": ("matmul", "attention"), "conv": ("conv",), "depthwise": ("depthwise",)}

NEURAL_ENGINE = (
    Parameter("efficiency.conv", 0.5, 3.0, 0.01, 1.0, "unknown; between a tenth and all of the peak"),
    Parameter("efficiency.matmul", 0.4, 3.0, 0.01, 1.0, "unknown; between a tenth and all of the peak"),
    Parameter("efficiency.depthwise", 0.05, 4.0, 0.001, 1.0, "one tap per channel fills little of a matrix unit"),
    Parameter("bandwidth", 1.0, 4.0, 0.1, 10.0, "of the memory's peak; above 1 where tensors stay on the chip"),
    Parameter("dispatch", 2e-6, 5.0, 1e-8, 1e-4, "a compiled program, not a queue of commands"),
    Parameter("fixed", 2e-4, 3.0, 1e-6, 2e-3, "a call of Core ML"),
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
        left_out: seconds of every row by the fit to the others.
        quality: of the predictions left out.
    """

    rows: tuple[PhoneRow, ...]
    values: Mapping[str, float]
    predicted: np.ndarray
    left_out: np.ndarray
    quality: Quality


def fitted(engine: Engine) -> PhoneFit:
    """Fits one unit to its rows and leaves out the rows of one publication and graph at a time."""
    rows = tuple(row for row in phone_rows() if row.engine == engine and row.use == "fit")
    problem = _problem(engine, rows)
    values = fit(problem)
    # The same graph on several chips is one observation of the model's form, so it is left out as one.
    left_out = leave_one_out(problem, [row.graph for row in rows] if engine == "neural-engine" else None)
    by_name = dict(zip((p.name for p in problem.parameters), values.tolist(), strict=True))
    return PhoneFit(rows, by_name, problem.predict(values), left_out, quality(left_out, problem.measured))


def predict_row(row: PhoneRow, values: Mapping[str, float]) -> float:
    """Returns the seconds of a row by fitted values."""
    return _seconds(row, features(kernels(row)), values)


def parameters(chip: str, values: Mapping[str, float]) -> Parameters:
    """Returns the parameters of the latency model for a chip."""
    efficiency = {
        category: values.get(f"efficiency.{name}", values["efficiency.conv"])
        for name, categories in _SHARED.items()
        for category in categories
    }
    return Parameters(efficiency, values["bandwidth"] * CHIPS[chip].dram, values["dispatch"], values["fixed"])


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
    return row.calls * own.fixed + float(seconds(known, peak, own).sum())


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
                "left_out_ms": left_s * 1e3,
            }
            for row, fitted_s, left_s in zip(found.rows, found.predicted, found.left_out, strict=True)
        ],
        "checks": [
            {"model": r.model, "published_ms": r.seconds * 1e3, "predicted_ms": predict_row(r, found.values) * 1e3}
            for r in checks
        ],
        "quality": vars(found.quality),
    }


if __name__ == "__main__":
    import json
    import sys

    engines: tuple[Engine, Engine] = ("neural-engine", "gpu")
    json.dump({engine: report(engine) for engine in engines}, sys.stdout, indent=2)
    sys.stdout.write("\n")
