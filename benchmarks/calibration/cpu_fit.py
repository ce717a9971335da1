"""Fits a CPU's parameters to microbenchmarks; models are never fitted, only predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from benchmarks.calibration.adreno_fit import rounded
from benchmarks.calibration.cpu_graphs import benchmarks
from benchmarks.calibration.cpu_results import Caches
from sdmobile.formats.graph import FileGraph
from sdmobile.prediction.fit import Parameter, Problem, Quality, Vector, fit, quality
from sdmobile.prediction.kernels import Kernel
from sdmobile.prediction.kernels.xnnpack import ELEMENT_BYTES, xnnpack_kernels
from sdmobile.prediction.latency import Parameters, UnitModel, concatenate, features, predict, totals

EFFICIENCIES = ("conv", "matmul", "depthwise", "softmax", "elementwise", "copy", "reduce", "resize", "gather")
_SHARE = "of the fastest product of the microbenchmarks"
_VECTORS = "vector instructions, most of them loads and stores"
PARAMETERS = (
    Parameter("conv", 0.9, 1.5, 0.05, 1.2, f"convolutions larger than 1x1, {_SHARE}"),
    Parameter("matmul", 0.9, 1.5, 0.05, 1.2, f"1x1 convolutions and matrix products, {_SHARE}"),
    Parameter("depthwise", 0.4, 2.0, 0.01, 1.2, "an input and a weight are read for every multiply-accumulate"),
    Parameter("softmax", 0.06, 3.0, 0.001, 1.2, "elements, three passes each"),
    Parameter("elementwise", 0.4, 2.0, 0.01, 1.2, _VECTORS),
    Parameter("copy", 0.4, 2.0, 0.01, 1.2, _VECTORS),
    Parameter("reduce", 0.4, 2.0, 0.01, 1.2, _VECTORS),
    Parameter("resize", 0.1, 3.0, 0.001, 1.2, "elements written, in TFLite's own kernel"),
    Parameter("gather", 0.2, 3.0, 0.001, 1.2, _VECTORS),
    Parameter("bandwidth", 2e10, 2.0, 1e9, 1e12, "one core's share of a computer's memory"),
    Parameter("dispatch", 3e-7, 5.0, 1e-9, 1e-4, "per kernel"),
    Parameter("fixed", 2e-6, 5.0, 1e-8, 1e-3, "per inference"),
)


@dataclass(frozen=True)
class CpuFit:
    """A fitted unit.

    Args:
        model: with the interval still at 1.
        names: of the microbenchmarks, in order.
        predicted, measured: their seconds.
    """

    model: UnitModel
    names: tuple[str, ...]
    predicted: Vector
    measured: Vector

    @property
    def quality(self) -> Quality:
        """Of the microbenchmarks themselves, which the fit has seen."""
        return quality(self.predicted, self.measured)


def cpu_fit(name: str, seconds: Mapping[str, float], caches: Caches) -> CpuFit:
    """Fits the parameters of one number of threads.

    Args:
        name: of the unit.
        seconds: of the microbenchmarks by name.
        caches: of the computer.
    """
    graphs = {key: graph for key, graph in benchmarks().items() if key in seconds}
    kernels = [_kernels(key, caches) for key in graphs]
    measured = np.array([seconds[key] for key in graphs])
    peak = _peak(kernels, measured)
    problem = _problem(kernels, measured, peak)
    values = np.array([rounded(value) for value in fit(problem)])
    return CpuFit(
        UnitModel(name, peak, _parameters(values), ELEMENT_BYTES), tuple(graphs), problem.predict(values), measured
    )


def _peak(kernels: Sequence[Sequence[Kernel]], measured: Vector) -> float:
    """Returns the fastest rate of all products, padding of tiles included."""
    rates = [
        sum(kernel.macs for kernel in each) / seconds
        for each, seconds in zip(kernels, measured, strict=True)
        if {kernel.category for kernel in each} <= {"conv", "matmul"}
    ]
    return rounded(max(rates))


def _problem(kernels: Sequence[Sequence[Kernel]], measured: Vector, peak: float) -> Problem:
    known, starts = concatenate([features(each, ELEMENT_BYTES) for each in kernels])
    return Problem(PARAMETERS, lambda values: totals(known, starts, peak, _parameters(values)), measured)


def _parameters(values: Vector) -> Parameters:
    named = dict(zip((parameter.name for parameter in PARAMETERS), map(float, values), strict=True))
    return Parameters(
        {category: named[category] for category in EFFICIENCIES}, named["bandwidth"], named["dispatch"], named["fixed"]
    )


@lru_cache(maxsize=256)
def _kernels(name: str, caches: Caches) -> tuple[Kernel, ...]:
    return xnnpack_kernels(benchmarks()[name], caches.last_level, caches.second_level)


def predicted_seconds(graph: FileGraph, model: UnitModel, caches: Caches) -> float:
    """Returns what a fitted unit says about a model."""
    return predict(xnnpack_kernels(graph, caches.last_level, caches.second_level), model).seconds
