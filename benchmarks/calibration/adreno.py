"""The Adreno 740's parameters from published times of public models.

    t = fixed + Σ_kernels ( max( macs / (peak · efficiency · occupancy), bytes / bandwidth ) + launches · dispatch )
      + cpu_macs / cpu_rate,                                           occupancy = items / (items + saturation)

The last term is 0 for every model that the delegate of the time ran on the GPU as a whole (see delegate_2024.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.calibration.delegate_2024 import cpu_macs, on_gpu
from benchmarks.calibration.rows import PublishedRow, published_rows
from benchmarks.calibration.stored import stored_graph
from sdmobile.device_profiles.runtime_rules.kernel import Kernel
from sdmobile.formats.graph import FileGraph
from sdmobile.prediction.fit import Parameter, Problem, Vector
from sdmobile.prediction.kernels.google_gpu import tflite_gpu_kernels
from sdmobile.prediction.latency import Features, Parameters, concatenate, features, totals

TABLE = "adreno_740"
PEAK_MACS = 3.68e12  # 7.36 TFLOPS in float16: hardware.gpu_fp16_peak of the profile
PEAK_BANDWIDTH = 67.2e9  # hardware.dram_bandwidth of the profile
RUNTIME_2024 = "tflite-gpu-2024"

PARAMETERS = (
    Parameter("dense", 0.25, 2.0, 0.01, 1.0, "convolutions and matrix products by any method"),
    Parameter("depthwise", 0.03, 3.0, 0.001, 1.0, "an input and a weight are read for every multiply-accumulate"),
    Parameter("bandwidth", 40e9, 1.5, 5e9, PEAK_BANDWIDTH, "60 % of the memory's peak; no more than the peak"),
    Parameter("dispatch", 8e-6, 2.0, 0.5e-6, 30e-6, "below 27 µs, the bound that MobileNet-V2's widths give"),
    Parameter("fixed", 1e-3, 2.0, 0.05e-3, 3e-3, "below 1.74 ms, the intercept of MobileNet-V2's widths"),
    Parameter("saturation", 12288.0, 2.0, 100.0, 1e6, "work items that fill the GPU: 6 units x 16 waves x 128 lanes"),
    Parameter("cpu_rate", 30e9, 1.2, 10e9, 60e9, "EfficientViT-B1 and -B3 in the same table's S23 CPU column, float32"),
)
# Which parameter gives the efficiency of a category with arithmetic.
EFFICIENCY = {
    "conv": "dense",
    "winograd": "dense",
    "matmul": "dense",
    "attention": "dense",
    "depthwise": "depthwise",
}


@dataclass(frozen=True)
class Work:
    """What a row's model does on the GPU, and how much of it stays on the CPU."""

    gpu: Features
    cpu_macs: float


def fit_rows() -> tuple[PublishedRow, ...]:
    """Returns the rows that are fitted."""
    return tuple(row for row in published_rows(TABLE) if row.use == "fit")


def work_of(row: PublishedRow) -> Work:
    """Returns the work of a published row."""
    return graph_work(stored_graph(row.graph), row.runtime)


def graph_work(graph: FileGraph, runtime: str) -> Work:
    """Returns the work of a graph of plain operators.

    Args:
        runtime: "tflite-gpu", or "tflite-gpu-2024" for the delegate that had no GELU.
    """
    if runtime == RUNTIME_2024:
        return Work(features(kernels_of(on_gpu(graph))), float(cpu_macs(graph)))
    return Work(features(kernels_of(graph)), 0.0)


def kernels_of(graph: FileGraph) -> tuple[Kernel, ...]:
    """Returns the kernels of the classic delegate."""
    return tflite_gpu_kernels(graph)


def model_parameters(values: Mapping[str, float]) -> Parameters:
    """Returns the latency model's parameters from the fitted ones."""
    return Parameters(
        efficiency={category: values[name] for category, name in EFFICIENCY.items()},
        bandwidth=values["bandwidth"],
        dispatch=values["dispatch"],
        fixed=values["fixed"],
        saturation=values["saturation"],
    )


def seconds(graph: FileGraph, values: Mapping[str, float], runtime: str = RUNTIME_2024) -> float:
    """Returns the predicted seconds of a graph of plain operators, such as that of a further published row.

    Args:
        values: fitted, by name.
        runtime: see `graph_work`.
    """
    work = graph_work(graph, runtime)
    known, starts = concatenate([work.gpu])
    return float(totals(known, starts, PEAK_MACS, model_parameters(values))[0]) + work.cpu_macs / values["cpu_rate"]


def problem(rows: Sequence[PublishedRow] | None = None, parameters: Sequence[Parameter] = PARAMETERS) -> Problem:
    """Returns the fit of the table's rows, or of others."""
    chosen = fit_rows() if rows is None else tuple(rows)
    works = [work_of(row) for row in chosen]
    joined, starts = concatenate([work.gpu for work in works])
    on_cpu = np.array([work.cpu_macs for work in works])
    names = [parameter.name for parameter in parameters]

    def predict(vector: Vector) -> Vector:
        values = dict(zip(names, vector, strict=True))
        gpu = totals(joined, starts, PEAK_MACS, model_parameters(values))
        return gpu + on_cpu / values["cpu_rate"]

    return Problem(tuple(parameters), predict, np.array([row.seconds for row in chosen]))
