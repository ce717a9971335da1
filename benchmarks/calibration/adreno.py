"""The Adreno 740's parameters from published times of public models.

    t = publication · ( fixed + Σ_kernels ( max( fetches / rate, bytes / bandwidth ) + launches · dispatch ) )

`fetches` are what the inner loops fetch, from the engine's source (prediction/kernels/conv_generic.py); `rate` is one
for 1×1 convolutions, products and depthwise kernels, and a share of it for larger convolutions; copies that move
channels have a share of the bandwidth. `publication` is a factor of what a publication measured, for conditions that it
does not tell, such as clocks and warm-up; it is 1 for whatever is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.calibration.rows import PublishedRow, published_rows
from benchmarks.calibration.stored import stored_graph
from sdmobile.formats.graph import FileGraph
from sdmobile.prediction.fit import Parameter, Problem, Vector
from sdmobile.prediction.kernels.google_gpu import tflite_gpu_kernels
from sdmobile.prediction.latency import Features, Parameters, concatenate, features, totals

TABLE = "adreno_740"
PEAK_MACS = 3.68e12  # 7.36 TFLOPS in float16: hardware.gpu_fp16_peak of the profile
PEAK_BANDWIDTH = 67.2e9  # hardware.dram_bandwidth of the profile
PUBLICATIONS = {"MobileNetV4": "mobilenetv4", "AI Hub": "ai_hub"}
"""Publications of the fit, and the names of their factors."""

PARAMETERS = (
    Parameter(
        "fetch_rate", 86e9, 2.0, 5e9, 3.45e11, "a quarter of the peak in the largest blocks; no more than all of it"
    ),
    Parameter("conv_share", 0.7, 1.5, 0.1, 1.0, "kernels above 1x1 compute addresses and borders for every tap"),
    Parameter("bandwidth", 40e9, 1.5, 5e9, PEAK_BANDWIDTH, "60 % of the memory's peak; no more than the peak"),
    Parameter("reorder_share", 0.7, 1.5, 0.05, 1.0, "element by element, and what lies together is read apart"),
    Parameter("dispatch", 8e-6, 2.0, 0.5e-6, 30e-6, "below 27 µs, the bound that MobileNet-V2's widths give"),
    Parameter("fixed", 1e-3, 2.0, 0.05e-3, 3e-3, "below 1.74 ms, the intercept of MobileNet-V2's widths"),
    *(Parameter(name, 1.0, 1.15, 0.5, 2.0, f"conditions of {title}") for title, name in PUBLICATIONS.items()),
)
_FULL_BLOCK, _DEPTHWISE = 128 / 12, 2.0  # multiply-accumulates per fetch: of 2×2×2 blocks, of a tap of four channels


def fit_rows() -> tuple[PublishedRow, ...]:
    """Returns the rows that are fitted."""
    return tuple(row for row in published_rows(TABLE) if row.use == "fit")


def graph_features(graph: FileGraph) -> Features:
    """Returns what the classic delegate launches for a graph of plain operators."""
    return features(tflite_gpu_kernels(graph))


def model_parameters(values: Mapping[str, float]) -> Parameters:
    """Returns the latency model's parameters from the fitted ones.

    Efficiencies hold for kernels whose fetches are not known: those of the same rate at the largest block.
    """
    rate = values["fetch_rate"]
    slow = rate * values["conv_share"]
    rates = {"conv": slow, "winograd": rate, "matmul": rate, "depthwise": rate}
    efficiency = {
        "conv": slow * _FULL_BLOCK / PEAK_MACS,
        **dict.fromkeys(("winograd", "matmul", "attention"), rate * _FULL_BLOCK / PEAK_MACS),
        "depthwise": rate * _DEPTHWISE / PEAK_MACS,
    }
    return Parameters(
        efficiency,
        values["bandwidth"],
        values["dispatch"],
        values["fixed"],
        fetch_rate=rates,
        reorder=values["reorder_share"],
    )


def seconds(graph: FileGraph, values: Mapping[str, float]) -> float:
    """Returns the predicted seconds of a graph of plain operators, such as that of a further published row.

    Args:
        values: fitted, by name.
    """
    known, starts = concatenate([graph_features(graph)])
    return float(totals(known, starts, PEAK_MACS, model_parameters(values))[0])


def problem(rows: Sequence[PublishedRow] | None = None, parameters: Sequence[Parameter] = PARAMETERS) -> Problem:
    """Returns the fit of the table's rows, or of others."""
    chosen = fit_rows() if rows is None else tuple(rows)
    joined, starts = concatenate([graph_features(stored_graph(row.graph)) for row in chosen])
    names = [parameter.name for parameter in parameters]

    def predict(vector: Vector) -> Vector:
        values = dict(zip(names, vector, strict=True))
        factors = [values.get(PUBLICATIONS.get(row.publication, ""), 1.0) for row in chosen]
        return np.array(factors) * totals(joined, starts, PEAK_MACS, model_parameters(values))

    return Problem(tuple(parameters), predict, np.array([row.seconds for row in chosen]))
