"""Measures `.tflite` files on this computer's CPU with LiteRT: the quietest of several runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.calibration.cpu_file import tflite_file
from benchmarks.calibration.cpu_results import Caches, Machine
from sdmobile.formats.graph import FileGraph

Clock = Callable[[], float]
_SMALL_BUDGET, _BUDGET = 0.05, 0.5  # seconds per round of a microbenchmark and of a model
_LEAST_RUNS = 3
_LONG, _LONG_RUNS = 1.5, 2  # a model whose first run takes longer is run this often, in one round


@dataclass(frozen=True)
class Plan:
    """How measurements are taken.

    Args:
        threads: numbers of threads, measured in turn.
        rounds: how often everything is measured, so that a busy while does not hit one file only.
        clock: seconds; the wall clock, or the processor time of a single thread on a busy computer.
    """

    threads: tuple[int, ...]
    rounds: int = 3
    clock: Clock = time.perf_counter


class Runnable:
    """A file that is ready to run.

    Args:
        file: the flatbuffer, or its path.
        threads: of the runtime.
    """

    def __init__(self, file: bytes | Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        source: dict[str, Any] = {"model_path": str(file)} if isinstance(file, Path) else {"model_content": file}
        self._interpreter = Interpreter(**source, num_threads=threads)
        self._interpreter.allocate_tensors()
        random = np.random.default_rng(0)
        for detail in self._interpreter.get_input_details():
            shape, dtype = detail["shape"], detail["dtype"]
            values = random.standard_normal(shape) if dtype == np.float32 else np.zeros(shape)
            self._interpreter.set_tensor(detail["index"], values.astype(dtype))

    def seconds(self, clock: Clock) -> float:
        """Returns the time of one run."""
        start = clock()
        self._interpreter.invoke()
        return clock() - start

    def quietest(self, clock: Clock, budget: float) -> float:
        """Returns the shortest of the runs that fit into a budget of seconds, the first one only if it is long."""
        first = self.seconds(clock)
        if first > _LONG:
            return min(first, *(self.seconds(clock) for _ in range(_LONG_RUNS - 1)))
        best, end, runs = first, time.perf_counter() + budget, 0
        while runs < _LEAST_RUNS or time.perf_counter() < end:
            took = self.seconds(clock)
            best, runs = (took if runs == 0 else min(best, took)), runs + 1
        return best


def measure_benchmarks(graphs: Mapping[str, FileGraph], plan: Plan) -> dict[int, dict[str, float]]:
    """Returns seconds of microbenchmarks by number of threads; every round goes through all of them."""
    ready = {
        (threads, name): Runnable(content, threads)
        for name, content in ((name, tflite_file(graph)) for name, graph in graphs.items())
        for threads in plan.threads
    }
    found: dict[int, dict[str, float]] = {threads: {} for threads in plan.threads}
    for _ in range(plan.rounds):
        for (threads, name), file in ready.items():
            took = file.quietest(plan.clock, _SMALL_BUDGET)
            found[threads][name] = min(took, found[threads].get(name, took))
    return found


def measure_model(file: bytes | Path, plan: Plan) -> dict[int, float]:
    """Returns seconds of one model by number of threads."""
    found: dict[int, float] = {}
    for _ in range(plan.rounds):
        for threads in plan.threads:
            if found.get(threads, 0.0) <= _LONG:
                took = Runnable(file, threads).quietest(plan.clock, _BUDGET)
                found[threads] = min(took, found.get(threads, took))
    return found


def this_machine(conditions: str) -> Machine:
    """Returns what the system says about this computer, without its name or addresses."""
    from datetime import date
    from importlib.metadata import version

    return Machine(
        processor=f"{_processor()}, {os.cpu_count()} cores",
        caches=this_caches(),
        runtime=f"ai-edge-litert {version('ai-edge-litert')}",
        date=date.today().isoformat(),
        conditions=conditions,
    )


def _processor() -> str:
    import platform

    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def this_caches(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> Caches:
    """Returns the sizes of this computer's caches, those of the reference computer where the system does not say."""
    sizes: dict[int, int] = {}
    for index in sorted(folder.glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            sizes[int((index / "level").read_text())] = _bytes((index / "size").read_text().strip())
    second = sizes.get(2, 2**20)
    return Caches(second, max([32 * 2**20] if not sizes else [*sizes.values()]))


def _bytes(text: str) -> int:
    factor = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
    return int(text.rstrip("KMG")) * factor


def thread_counts(wanted: Sequence[int]) -> tuple[int, ...]:
    """Returns the numbers of threads to measure: the given ones, else one and all cores up to four."""
    return tuple(dict.fromkeys(wanted)) or tuple(dict.fromkeys((1, min(4, os.cpu_count() or 1))))
