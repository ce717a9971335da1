"""What was measured on a computer's CPU: microbenchmarks and whole models, by number of threads, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STORED = Path(__file__).resolve().parent / "data/cpu/reference.json"


@dataclass(frozen=True)
class Caches:
    """Bytes of a core's second-level cache and of the last cache before the memory."""

    second_level: int
    last_level: int


@dataclass(frozen=True)
class Machine:
    """The computer of a set of measurements.

    Args:
        processor: its name as the system gives it, and the number of cores.
        caches: sizes.
        runtime: version of the runtime.
        date: day of the measurement.
        conditions: what else is to be said, such as other work on the computer.
    """

    processor: str
    caches: Caches
    runtime: str
    date: str
    conditions: str


@dataclass(frozen=True)
class CpuResults:
    """Measured seconds, the quietest of several runs each.

    Args:
        machine: where.
        benchmarks: number of threads to microbenchmark to seconds.
        models: number of threads to model to seconds; models are predicted, never fitted.
    """

    machine: Machine
    benchmarks: Mapping[int, Mapping[str, float]]
    models: Mapping[int, Mapping[str, float]]

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object; every number of seconds in it is measured."""
        return {
            "machine": asdict(self.machine),
            "benchmarks": {str(threads): dict(seconds) for threads, seconds in self.benchmarks.items()},
            "models": {str(threads): dict(seconds) for threads, seconds in self.models.items()},
        }


def rounded(times: Mapping[int, Mapping[str, float]]) -> dict[int, dict[str, float]]:
    """Returns times with four digits: what is fitted is what the file can hold."""
    return {threads: {name: float(f"{s:.4g}") for name, s in found.items()} for threads, found in times.items()}


def write_results(results: CpuResults, path: Path) -> None:
    """Writes measurements."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(results.to_json(), indent=1) + "\n")
    temporary.replace(path)


def read_results(path: Path = STORED) -> CpuResults:
    """Reads measurements; without a path, those of the reference computer."""
    known = json.loads(path.read_text())
    machine = Machine(**{**known["machine"], "caches": Caches(**known["machine"]["caches"])})
    return CpuResults(machine, _by_threads(known["benchmarks"]), _by_threads(known["models"]))


def _by_threads(known: Mapping[str, Mapping[str, float]]) -> dict[int, Mapping[str, float]]:
    return {int(threads): seconds for threads, seconds in known.items()}
