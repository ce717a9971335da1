"""How long kernels take on a compute unit: a roofline per kernel with few fitted parameters.

    t = max( fetches / fetch_rate[category], bytes / bandwidth ) + launches · dispatch
    t = max( macs / (peak · efficiency[category] · occupancy), bytes / bandwidth ) + launches · dispatch
    occupancy = items / (items + saturation)
    total = fixed + Σ t

The first holds for kernels of which the engine's source tells how many vectors of four channels their inner loops
fetch, the second for all others. `items` are the output items of four channels that a kernel writes. The roofline
is that of Williams et al. 2009 (doi 10.1145/1498765.1498785), taken per kernel instead of per model. A prediction is
never a measurement: its type has no field for one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sdmobile.device_profiles.costs_schema import Latency, Unit
from sdmobile.device_profiles.fact import Fact
from sdmobile.device_profiles.runtime_rules.kernel import CATEGORIES, Kernel
from sdmobile.errors import UnsupportedError

Bound = Literal["compute", "memory", "dispatch"]
_ITEM_CHANNELS = 4
_INDEX = {category: i for i, category in enumerate(CATEGORIES)}


@dataclass(frozen=True)
class Parameters:
    """What is fitted.

    Args:
        efficiency: fraction of the peak by category; a category without arithmetic needs none.
        bandwidth: achieved, bytes per second.
        dispatch: seconds per launch.
        fixed: seconds per inference.
        saturation: output items at which half of the efficiency is reached; 0 for no such term.
        fetch_rate: vectors per second by category, of kernels whose fetches are known.
        reorder: share of the bandwidth that copies reach which move channels or change the rank.
    """

    efficiency: Mapping[str, float]
    bandwidth: float
    dispatch: float
    fixed: float
    saturation: float = 0.0
    fetch_rate: Mapping[str, float] = field(default_factory=dict)
    reorder: float = 1.0


@dataclass(frozen=True)
class UnitModel:
    """A compute unit with everything that a prediction needs.

    Args:
        name: of the unit within its profile.
        peak_macs: multiply-accumulates per second.
        parameters: the fitted ones.
        element_bytes: size of an activation.
        low, high: factors on a prediction that bound it; None where nothing measured tells.
        load_bandwidth: weight bytes per second at loading; None if unknown.
        compile: seconds per distinct kernel at the first load; None if unknown.
    """

    name: str
    peak_macs: float
    parameters: Parameters
    element_bytes: int = 2
    low: float | None = None
    high: float | None = None
    load_bandwidth: float | None = None
    compile: float | None = None


def unit_model(name: str, unit: Unit, latency: Latency) -> UnitModel:
    """Returns the model of a unit from its two tables in a profile.

    Raises:
        UnsupportedError: the profile does not know the unit's peak.
    """
    peak = _number(unit.peak_macs)
    if peak is None:
        raise UnsupportedError(
            "a prediction needs the unit's peak rate",
            f"units.{name}.peak_macs is unknown",
            "Add the value to the profile",
        )
    parameters = Parameters(
        efficiency={category: _number(fact) or 0.0 for category, fact in latency.efficiency.items()},
        bandwidth=_number(latency.bandwidth) or 0.0,
        dispatch=_number(latency.dispatch) or 0.0,
        fixed=_number(latency.fixed) or 0.0,
        saturation=_number(latency.saturation) or 0.0,
        fetch_rate={category: _number(fact) or 0.0 for category, fact in latency.fetch_rate.items()},
        reorder=_number(latency.reorder) or 1.0,
    )
    return UnitModel(
        name,
        peak,
        parameters,
        unit.element_bytes,
        _number(latency.low),
        _number(latency.high),
        _number(latency.load_bandwidth),
        _number(latency.compile),
    )


def _number(fact: Fact | None) -> float | None:
    return float(fact.value) if fact is not None and isinstance(fact.value, int | float) else None


@dataclass(frozen=True)
class Features:
    """What the model knows of kernels, one entry per kernel.

    Args:
        category: index in CATEGORIES.
        macs: multiply-accumulates as executed.
        bytes: memory traffic.
        launches: dispatches.
        items: output items of four channels.
        fetches: vectors that the inner loops fetch; 0 where that is not known.
    """

    category: np.ndarray
    macs: np.ndarray
    bytes: np.ndarray
    launches: np.ndarray
    items: np.ndarray
    fetches: np.ndarray

    def __len__(self) -> int:
        return len(self.macs)


def features(kernels: Sequence[Kernel], element_bytes: int = 2) -> Features:
    """Returns the features of kernels.

    Args:
        element_bytes: size of an activation.
    """
    return Features(
        category=np.array([_INDEX[kernel.category] for kernel in kernels], np.int64),
        macs=np.array([kernel.macs for kernel in kernels], np.float64),
        bytes=np.array([kernel.bytes for kernel in kernels], np.float64),
        launches=np.array([kernel.launches for kernel in kernels], np.float64),
        items=np.array(
            [max(1, kernel.write_bytes // (_ITEM_CHANNELS * element_bytes)) for kernel in kernels], np.float64
        ),
        fetches=np.array([kernel.fetches for kernel in kernels], np.float64),
    )


def concatenate(models: Sequence[Features]) -> tuple[Features, np.ndarray]:
    """Returns the features of several models as one, and where each model starts; a fit evaluates all at once."""
    names = ("category", "macs", "bytes", "launches", "items", "fetches")
    joined = Features(**{name: np.concatenate([getattr(model, name) for model in models]) for name in names})
    return joined, np.cumsum([0, *(len(model) for model in models[:-1])])


def parts(known: Features, peak_macs: float, parameters: Parameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns compute, memory and dispatch seconds of every kernel.

    Raises:
        UnsupportedError: a kernel with arithmetic has no efficiency.
    """
    efficiency = np.array([parameters.efficiency.get(category, np.nan) for category in CATEGORIES])[known.category]
    fetched = np.array([parameters.fetch_rate.get(category, 0.0) for category in CATEGORIES])[known.category]
    counted = (known.fetches > 0) & (fetched > 0)
    busy = (known.macs > 0) & ~counted
    if np.isnan(efficiency[busy]).any():
        missing = CATEGORIES[known.category[busy & np.isnan(efficiency)][0]]
        raise UnsupportedError("every category of kernels with arithmetic needs an efficiency", missing)
    rate = peak_macs * np.where(busy, efficiency, 1.0)
    compute = known.macs / rate * (1.0 + parameters.saturation / known.items)
    compute[counted] = known.fetches[counted] / fetched[counted]
    share = np.where(known.category == _INDEX["reorder"], parameters.reorder, 1.0)
    return compute, known.bytes / (parameters.bandwidth * share), known.launches * parameters.dispatch


def seconds(known: Features, peak_macs: float, parameters: Parameters) -> np.ndarray:
    """Returns the seconds of every kernel."""
    compute, memory, dispatch = parts(known, peak_macs, parameters)
    return np.maximum(compute, memory) + dispatch


def totals(known: Features, starts: np.ndarray, peak_macs: float, parameters: Parameters) -> np.ndarray:
    """Returns the seconds of every model of `concatenate`."""
    return parameters.fixed + np.add.reduceat(seconds(known, peak_macs, parameters), starts)


@dataclass(frozen=True)
class KernelTime:
    """A kernel, its predicted seconds, and what bounds it."""

    kernel: Kernel
    seconds: float
    bound: Bound

    def to_json(self) -> dict[str, Any]:
        """Returns the fields that a person looks for as a JSON object."""
        kernel = self.kernel
        return {
            "category": kernel.category,
            "module": kernel.name,
            "seconds": self.seconds,
            "bound": self.bound,
            "macs": kernel.macs,
            "operator_macs": kernel.operator_macs,
            "bytes": kernel.bytes,
            "launches": kernel.launches,
            "note": kernel.note,
        }


@dataclass(frozen=True)
class FirstRun:
    """What the first run costs on top; None where nobody has measured what it depends on.

    Args:
        load: seconds to bring the weights to the unit.
        compile: seconds to compile the distinct kernels.
    """

    load: float | None = None
    compile: float | None = None


@dataclass(frozen=True)
class Prediction:
    """Predicted seconds of one inference.

    Args:
        unit: compute unit.
        times: per kernel, in the order of execution.
        seconds: of the whole, the fixed cost included.
        low, high: the interval that the residuals of rows left out give; None where none was.
        fixed: seconds that belong to no kernel.
        first_run: what the first one costs on top.
    """

    unit: str
    times: tuple[KernelTime, ...]
    seconds: float
    low: float | None
    high: float | None
    fixed: float = 0.0
    first_run: FirstRun = field(default_factory=FirstRun)

    def by_category(self) -> dict[str, float]:
        """Returns the seconds of each category, largest first."""
        return self._sums(lambda time: time.kernel.category)

    def by_module(self) -> dict[str, float]:
        """Returns the seconds of each module of the source model, largest first."""
        return self._sums(lambda time: time.kernel.name)

    def _sums(self, key: Any) -> dict[str, float]:
        sums: dict[str, float] = defaultdict(float)
        for time in self.times:
            sums[key(time)] += time.seconds
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def costliest(self, count: int) -> list[KernelTime]:
        """Returns the kernels that take longest."""
        return sorted(self.times, key=lambda time: -time.seconds)[:count]

    def to_json(self, count: int = 20) -> dict[str, Any]:
        """Returns a JSON object; every number in it is predicted.

        Args:
            count: of the costliest kernels listed.
        """
        return {
            "predicted": True,
            "unit": self.unit,
            "seconds": self.seconds,
            "low": self.low,
            "high": self.high,
            "fixed_seconds": self.fixed,
            "kernels": len(self.times),
            "launches": sum(time.kernel.launches for time in self.times),
            "macs": sum(time.kernel.macs for time in self.times),
            "operator_macs": sum(time.kernel.operator_macs for time in self.times),
            "bytes": sum(time.kernel.bytes for time in self.times),
            "seconds_by_category": self.by_category(),
            "seconds_by_bound": self._sums(lambda time: time.bound),
            "load_seconds": self.first_run.load if self.first_run.load is not None else "unknown",
            "compile_seconds": self.first_run.compile if self.first_run.compile is not None else "unknown",
            "costliest": [time.to_json() for time in self.costliest(count)],
        }


def predict(kernels: Sequence[Kernel], unit: UnitModel) -> Prediction:
    """Predicts one inference.

    Args:
        kernels: what the runtime launches, in order.
        unit: the compute unit.
    """
    known = features(kernels, unit.element_bytes)
    compute, memory, dispatch = parts(known, unit.peak_macs, unit.parameters)
    work = np.maximum(compute, memory)
    bounds = np.where(dispatch > work, 2, np.where(memory > compute, 1, 0))
    names: tuple[Bound, ...] = ("compute", "memory", "dispatch")
    each = work + dispatch
    total = unit.parameters.fixed + float(each.sum())
    times = tuple(
        KernelTime(kernel, float(took), names[bound]) for kernel, took, bound in zip(kernels, each, bounds, strict=True)
    )
    low, high = (None if factor is None else total * factor for factor in (unit.low, unit.high))
    return Prediction(unit.name, times, total, low, high, unit.parameters.fixed, first_run(kernels, unit))


def first_run(kernels: Sequence[Kernel], unit: UnitModel) -> FirstRun:
    """Returns what loading and compiling cost, None for what the profile does not know."""
    weights = sum(kernel.weight_bytes for kernel in kernels)
    distinct = {
        (kernel.category, kernel.note, kernel.read_bytes, kernel.write_bytes, kernel.macs) for kernel in kernels
    }
    return FirstRun(
        load=None if unit.load_bandwidth is None else weights / unit.load_bandwidth,
        compile=None if unit.compile is None else len(distinct) * unit.compile,
    )
