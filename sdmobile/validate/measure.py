"""Runs a bundle's files where that is possible, and times them. Nothing here is predicted."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.errors import MissingDependencyError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.runtimes.base import FileRunner

Tell = Callable[[str], None]
_RUNTIMES = {"android": ("litert",), "onnx": ("ort",), "ios": ("coreml-cpu", "coreml-gpu", "coreml-ne")}
_TITLES = {"litert": "LiteRT, XNNPACK", "ort": "ONNX Runtime"}


@dataclass(frozen=True)
class MeasureOptions:
    """How to measure.

    Args:
        repeats: timed runs.
        threads: CPU threads, None for the runtime's choice.
        benchmark_model: LiteRT's program for a connected Android phone; None for no phone.
        serial: which phone.
        warmup: runs before the timed ones.
    """

    repeats: int = 10
    threads: int | None = None
    benchmark_model: Path | None = None
    serial: str | None = None
    warmup: int = 2


@dataclass(frozen=True)
class MeasuredTime:
    """A measured time.

    Args:
        component: canonical name.
        place: what it was measured on.
        runtime: what ran it.
        seconds: median of the timed runs; the mean where only that is known (see remark).
        low, high: 10th and 90th percentile, None if not known.
        runs: timed runs, None if not known.
        remark: what else was seen.
    """

    component: str
    place: str
    runtime: str
    seconds: float
    low: float | None = None
    high: float | None = None
    runs: int | None = None
    remark: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object; every number in it was measured."""
        return {"measured": True, **vars(self)}


@dataclass(frozen=True)
class Measurements:
    """What was measured, and what was not run and why."""

    rows: tuple[MeasuredTime, ...] = ()
    not_run: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object; every number in it was measured."""
        return {"rows": [row.to_json() for row in self.rows], "not_run": list(self.not_run)}


def measure_bundle(bundle: Bundle, options: MeasureOptions, tell: Tell) -> Measurements:
    """Times every component of a bundle by the runtimes that this machine has for it, and on a phone if asked for.

    Args:
        bundle: whose files.
        options: how.
        tell: sees what is under way.
    """
    rows: list[MeasuredTime] = []
    not_run: list[str] = []
    for runtime in _RUNTIMES[bundle.target]:
        if runtime.startswith("coreml") and sys.platform != "darwin":
            not_run.append(f"{runtime}: Core ML needs macOS, this is {platform.system()}")
            continue
        try:
            rows += times_by_runtime(bundle, runtime, options, tell)
        except MissingDependencyError as error:
            not_run.append(f"{runtime}: {error.message()}")
    if options.benchmark_model is not None:
        on_phone, problems = _on_phone(bundle, options, tell)
        rows, not_run = [*rows, *on_phone], [*not_run, *problems]
    return Measurements(tuple(rows), tuple(not_run))


def sample_inputs(component: BundleComponent, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Returns seeded inputs in canonical arrays: normal numbers, a middle timestep, token 0.

    Args:
        component: whose interface.
        seed: of the numbers.
    """
    import numpy as np

    generator = np.random.default_rng(seed)

    def made(canonical: str, shape: tuple[int, ...]) -> NDArray[Any]:
        if canonical == "input_ids":
            return np.zeros(shape, np.int64)
        if canonical == "timestep":
            return np.full(shape, 500.0, np.float32)
        return generator.standard_normal(shape, np.float32)

    first = (component.chain or (component,))[0].contract
    specs = {
        spec.canonical: spec for part in component.chain for spec in part.contract.inputs if spec.layout != "opaque"
    }
    specs |= {spec.canonical: spec for spec in (first if component.chain else component.contract).inputs}
    return {name: made(name, spec.canonical_shape) for name, spec in specs.items()}


def times_by_runtime(bundle: Bundle, runtime: str, options: MeasureOptions, tell: Tell) -> Iterator[MeasuredTime]:
    """Times every component by one runtime of this machine."""
    from sdmobile.runtimes import bundle_runner

    for name, component in bundle.components.items():
        tell(f"measuring {name} with {runtime}")
        runner = bundle_runner(bundle, runtime, options.threads)
        times = timed(runner, name, sample_inputs(component), options)
        plan = _plan_remark(component, runtime) if runtime.startswith("coreml") else ""
        runner.release()
        yield measured_time(name, runtime, times, options.threads, plan)


def timed(
    runner: FileRunner, component: str, inputs: Mapping[str, NDArray[Any]], options: MeasureOptions
) -> list[float]:
    """Returns the seconds of every timed run, after the warm-up; the way to a runtime's own process is left out."""
    times = []
    for number in range(options.warmup + options.repeats):
        started = time.perf_counter()
        runner.run(component, inputs)
        if number >= options.warmup:
            times.append(time.perf_counter() - started - runner.crossing)
    return times


def measured_time(component: str, runtime: str, times: list[float], threads: int | None, remark: str) -> MeasuredTime:
    """Returns median and percentiles of timed runs, in seconds."""
    import numpy as np

    low, high = (float(value) for value in np.quantile(times, (0.1, 0.9)))
    title = _TITLES.get(runtime, runtime)
    counted = "" if threads is None or runtime not in _TITLES else f", {threads} threads"
    return MeasuredTime(component, host(), title + counted, statistics.median(times), low, high, len(times), remark)


def host() -> str:
    """Returns this machine in words."""
    import os

    return f"this machine ({platform.system()} {platform.machine()}, {os.cpu_count()} CPUs)"


def _on_phone(bundle: Bundle, options: MeasureOptions, tell: Tell) -> tuple[list[MeasuredTime], list[str]]:
    """Runs LiteRT's own program through adb; see `phone` for what it prints."""
    from sdmobile.validate.checks import Status
    from sdmobile.validate.phone import phone_checker

    if options.benchmark_model is None:
        raise UnsupportedError("a phone is measured by LiteRT's benchmark_model", "none", "Pass --benchmark-model")
    tell("measuring on the phone")
    check = phone_checker(options.benchmark_model, options.serial)
    rows: list[MeasuredTime] = []
    problems: list[str] = []
    for result in check(bundle, list(bundle.components), None):  # pyright: ignore[reportArgumentType]  # no inputs
        if result.status in (Status.NOT_RUN, Status.ERROR) or "average_ms" not in result.figures:
            problems.append(f"{result.name}: {result.failure}")
            continue
        figures = result.figures
        runs = int(figures["runs"]) if "runs" in figures else None
        remark = f"mean; best {figures['best_ms']:.1f} ms" if "best_ms" in figures else "mean"
        remark += f", {result.reason}" if result.status == Status.FAILED and result.reason else ""
        seconds = 1e-3 * figures["average_ms"]
        rows.append(MeasuredTime(result.component, result.place, result.checker, seconds, runs=runs, remark=remark))
    return rows, problems


def _plan_remark(component: BundleComponent, runtime: str) -> str:
    """Returns the compute plan in words, or why there is none: old systems have none, and times matter without it."""
    try:
        return _compute_plan(component, runtime)
    except Exception as error:  # coremltools passes on whatever Core ML objects to
        return f"no compute plan: {error}"


def _compute_plan(component: BundleComponent, runtime: str) -> str:
    """Returns how many operations Core ML plans for which device, in words; macOS only."""
    import coremltools
    from coremltools.models.compute_plan import MLComputePlan

    from sdmobile.runtimes.coreml import COMPUTE_UNITS

    units = getattr(coremltools.ComputeUnit, COMPUTE_UNITS[runtime])
    counts: dict[str, int] = {}
    for part in component.chain or (component,):
        model = coremltools.models.MLModel(str(part.path), compute_units=units)
        plan = MLComputePlan.load_from_path(model.get_compiled_model_path(), compute_units=units)
        program = plan.model_structure.program
        for operation in program.functions["main"].block.operations if program else ():
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            if usage is not None:
                name = type(usage.preferred_compute_device).__name__.removeprefix("ML").removesuffix("ComputeDevice")
                counts[name] = counts.get(name, 0) + 1
    return "compute plan: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
