"""Turns a CPU's measurements into fitted units, their tables in a profile, and the tables of docs/latency-model.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmarks.calibration.adreno_fit import rounded
from benchmarks.calibration.cpu_fit import PARAMETERS, CpuFit, cpu_fit, predicted_seconds
from benchmarks.calibration.cpu_models import model_graph
from benchmarks.calibration.cpu_results import CpuResults, Machine
from benchmarks.calibration.profile_values import replace_between, toml
from benchmarks.calibration.tables import table
from sdmobile.device_profiles import profile_path
from sdmobile.device_profiles.fact import Fact
from sdmobile.formats.graph import FileGraph
from sdmobile.prediction.fit import Quality, quality

PROFILE = profile_path("cpu")
START = "# fitted: python -m benchmarks.calibration.cpu --write"
END = "# end of the fitted values"


@dataclass(frozen=True)
class ModelResult:
    """A model that no parameter was fitted to.

    Args:
        name: of the model.
        measured, predicted: seconds.
    """

    name: str
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Returns predicted / measured − 1."""
        return self.predicted / self.measured - 1.0


@dataclass(frozen=True)
class FittedUnit:
    """The CPU with one number of threads.

    Args:
        fit: to the microbenchmarks.
        models: predictions of what was not fitted.
    """

    threads: int
    fit: CpuFit
    models: tuple[ModelResult, ...]

    @property
    def name(self) -> str:
        """Name in a profile."""
        return unit_name(self.threads)

    @property
    def quality(self) -> Quality:
        """Of the models, or of the microbenchmarks where no model was measured."""
        if not self.models:
            return self.fit.quality
        return quality(np.array([m.predicted for m in self.models]), np.array([m.measured for m in self.models]))


def unit_name(threads: int) -> str:
    """Returns the name of a unit in a profile."""
    return f"cpu-{threads}"


def fitted_units(results: CpuResults, graphs: Mapping[str, FileGraph] | None = None) -> tuple[FittedUnit, ...]:
    """Returns a fitted unit per number of threads, with its predictions for the measured models.

    Args:
        graphs: of models that are not stored in the package.
    """
    known = dict(graphs or {})
    units = []
    for threads, seconds in results.benchmarks.items():
        fit = cpu_fit(unit_name(threads), seconds, results.machine.caches)
        models = tuple(
            ModelResult(
                name, measured, predicted_seconds(known.get(name) or _graph(name), fit.model, results.machine.caches)
            )
            for name, measured in results.models.get(threads, {}).items()
        )
        units.append(FittedUnit(threads, fit, models))
    return tuple(units)


@lru_cache(maxsize=64)
def _graph(name: str) -> FileGraph:
    return model_graph(name)


Entries = Mapping[str, str | int | Fact]


def profile_tables(results: CpuResults, units: tuple[FittedUnit, ...]) -> dict[str, Entries]:
    """Returns the tables [units.*] and [latency.*] of the CPU."""
    found: dict[str, Entries] = {}
    for unit in units:
        found |= _unit_tables(results.machine, unit)
    for unit in units:
        found |= _latency_tables(results.machine, unit)
    return found


def _where(machine: Machine, unit: FittedUnit) -> str:
    threads = "1 thread" if unit.threads == 1 else f"{unit.threads} threads"
    return f"{machine.processor}, {threads}, {machine.runtime}, {machine.date}"


def _unit_tables(machine: Machine, unit: FittedUnit) -> dict[str, Entries]:
    where = _where(machine, unit)
    caches = "the operating system of " + where
    achieved = "the achieved one, fitted below; a virtual machine does not say what its memory can do"
    return {
        f"units.{unit.name}": {
            "runtime": "xnnpack",
            "element_bytes": 4,
            "peak_macs": _fact(unit.fit.model.peak_macs, "MAC/s", f"measured: fastest product of {where}", "low"),
            "dram_bandwidth": _fact(unit.fit.model.parameters.bandwidth, "bytes/s", achieved, "low"),
            "second_level": _fact(machine.caches.second_level, "bytes", caches, "medium"),
            "last_level": _fact(machine.caches.last_level, "bytes", caches, "medium"),
        }
    }


def _latency_tables(machine: Machine, unit: FittedUnit) -> dict[str, Entries]:
    parameters, found = unit.fit.model.parameters, unit.quality
    what = f"{len(unit.fit.names)} microbenchmarks on {_where(machine, unit)}"
    errors = f"median {found.median:.1%}, 90th percentile {found.p90:.1%}"
    tried = f"error on {len(unit.models)} models that were not fitted: {errors}"
    source = f"fitted to {what}; {tried if unit.models else f'their own error: {errors}'}"
    interval = f"80 % interval of measured / predicted, finite-sample corrected: {source}"
    values = {
        "bandwidth": (parameters.bandwidth, "bytes/s", source),
        "dispatch": (parameters.dispatch, "s", source),
        "fixed": (parameters.fixed, "s", source),
    }
    if found.low is not None and found.high is not None:
        values |= {"low": (rounded(found.low), "", interval), "high": (rounded(found.high), "", interval)}
    values |= {f"efficiency.{key}": (value, "", source) for key, value in parameters.efficiency.items()}
    return {f"latency.{unit.name}.{key}": {"": _fact(*value, "low")} for key, value in values.items()}


def _fact(value: float, unit: str, source: str, reliability: str) -> Fact:
    return Fact.model_validate({"value": value, "unit": unit, "source": source, "reliability": reliability})


def profile_text(results: CpuResults, units: tuple[FittedUnit, ...], name: str = "cpu") -> str:
    """Returns a profile for a computer: the packaged one with other fitted values.

    Args:
        name: of the device.
    """
    text = replace_between(PROFILE.read_text(), START, END, "\n" + toml(profile_tables(results, units)) + "\n")
    return text.replace('name = "cpu"', f'name = "{name}"', 1)


def write_cpu_profile(results: CpuResults, units: tuple[FittedUnit, ...], path: Path = PROFILE) -> None:
    """Writes a profile of a computer; its device has the file's name."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(profile_text(results, units, path.stem))
    temporary.replace(path)


def sections(results: CpuResults, units: tuple[FittedUnit, ...]) -> dict[str, str]:
    """Returns the tables of the page by the name of their place."""
    return {
        "cpu machine": _machine(results),
        "cpu parameters": _parameters(units),
        "cpu models": _models(units),
        "cpu statistics": _statistics(units),
    }


def _machine(results: CpuResults) -> str:
    machine = results.machine
    caches = f"{machine.caches.second_level >> 10} KiB second level, {machine.caches.last_level >> 20} MiB last level"
    facts = {
        "processor": machine.processor,
        "caches": caches,
        "runtime": machine.runtime,
        "date": machine.date,
        "conditions": machine.conditions,
    }
    return table(["computer", "value"], [[key, value] for key, value in facts.items()])


_SCALES = {"bandwidth": (1e9, "GB/s"), "dispatch": (1e-6, "µs"), "fixed": (1e-6, "µs")}


def _parameters(units: tuple[FittedUnit, ...]) -> str:
    def values(unit: FittedUnit) -> dict[str, float]:
        known = unit.fit.model.parameters
        return {**known.efficiency, "bandwidth": known.bandwidth, "dispatch": known.dispatch, "fixed": known.fixed}

    def shown(name: str, value: float) -> str:
        scale, suffix = _SCALES.get(name, (1e-2, "%"))
        return f"{value / scale:.3g} {suffix}"

    fitted = [values(unit) for unit in units]
    lines = [["peak", *(f"{unit.fit.model.peak_macs / 1e9:.1f} GMAC/s" for unit in units), "measured"]]
    lines += [[p.name, *(shown(p.name, each[p.name]) for each in fitted), p.reason] for p in PARAMETERS]
    return table(["parameter", *(unit.name for unit in units), "what it counts"], lines)


def _models(units: tuple[FittedUnit, ...]) -> str:
    names = [model.name for model in units[0].models]
    lines = []
    for name in names:
        line = [name]
        for unit in units:
            model = next(model for model in unit.models if model.name == name)
            line += [_milliseconds(model.measured), _milliseconds(model.predicted), f"{model.error:+.0%}"]
        lines.append(line)
    columns = (f"{unit.name} {what}" for unit in units for what in ("measured ms", "predicted ms", "error"))
    return table(["model", *columns], lines)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f}" if seconds >= 1.0 else f"{seconds * 1e3:.3g}"


def _statistics(units: tuple[FittedUnit, ...]) -> str:
    def line(name: str, found: Quality, count: int) -> list[str]:
        numbers = [f"{found.median:.1%}", f"{found.p90:.1%}", f"{found.worst:.1%}", f"{found.rank_correlation:.3f}"]
        return [name, str(count), *numbers]

    lines = [line(f"{unit.name}: microbenchmarks, fitted", unit.fit.quality, len(unit.fit.names)) for unit in units]
    lines += [line(f"{unit.name}: models, not fitted", unit.quality, len(unit.models)) for unit in units if unit.models]
    return table(["set", "number", "median error", "90th percentile", "worst", "rank correlation"], lines)
