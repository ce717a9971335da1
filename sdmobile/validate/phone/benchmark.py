"""Reads what LiteRT's `benchmark_model` prints.

The lines are those of tensorflow/lite/tools/benchmark/{benchmark_model,benchmark_tflite_model}.cc and of the delegates'
log (tensorflow/lite/core/subgraph.cc). They may stand behind "INFO: " or "I tflite  : "; large numbers come as 1.2e+06.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBER = r"([0-9.]+(?:e[+-]?[0-9]+)?)"
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, "
    rf"Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}"
)
_RUN = re.compile(rf"count=([0-9]+) first={_NUMBER} curr={_NUMBER} min={_NUMBER} max={_NUMBER} avg={_NUMBER}")
_MEMORY = re.compile(
    rf"(?:Memory footprint delta[^:]*|Peak memory footprint) ?\(MB\): init={_NUMBER} overall={_NUMBER}"
)
_DELEGATED = re.compile(
    r"Replacing ([0-9]+) out of ([0-9]+) node\(s\) with delegate \(([^)]*)\) node, yielding ([0-9]+) partitions"
)


@dataclass(frozen=True)
class Benchmark:
    """Figures of one run.

    Args:
        init_ms: loading and compiling.
        first_ms: first inference.
        average_ms: mean of the timed inferences.
        best_ms: shortest of them, None if it was not printed.
        runs: timed inferences, None if it was not printed.
        memory_mb: memory that the run took at most, None if it was not printed.
        delegated: nodes that the delegate took, None if none said so.
        nodes: all nodes, None likewise.
        partitions: parts that the delegate cut the graph into, None likewise.
        delegate: its name, None likewise.
    """

    init_ms: float
    first_ms: float
    average_ms: float
    best_ms: float | None = None
    runs: int | None = None
    memory_mb: float | None = None
    delegated: int | None = None
    nodes: int | None = None
    partitions: int | None = None
    delegate: str | None = None

    def figures(self) -> dict[str, float]:
        """Returns the numbers by name."""
        named = {
            "init_ms": self.init_ms,
            "first_ms": self.first_ms,
            "average_ms": self.average_ms,
            "best_ms": self.best_ms,
            "runs": self.runs,
            "memory_mb": self.memory_mb,
            "delegated_nodes": self.delegated,
            "nodes": self.nodes,
            "partitions": self.partitions,
        }
        return {name: float(value) for name, value in named.items() if value is not None}


def parse_benchmark(text: str) -> Benchmark | None:
    """Returns the figures of a finished run, or None if the output has no timings.

    Args:
        text: everything that `benchmark_model` printed.
    """
    timings = _TIMINGS.search(text)
    if timings is None:
        return None
    init, first, _, average = (1e-3 * float(value) for value in timings.groups())
    runs = list(_RUN.finditer(text))  # a warm-up of several runs prints such a line too; the last is the timed one
    memory, delegated = _MEMORY.search(text), _largest(text)
    return Benchmark(
        init,
        first,
        average,
        best_ms=1e-3 * float(runs[-1][4]) if runs else None,
        runs=int(runs[-1][1]) if runs else None,
        memory_mb=float(memory[2]) if memory else None,
        delegated=int(delegated[1]) if delegated else None,
        nodes=int(delegated[2]) if delegated else None,
        partitions=int(delegated[4]) if delegated else None,
        delegate=delegated[3] if delegated else None,
    )


def _largest(text: str) -> re.Match[str] | None:
    """Returns what the delegate of the largest subgraph says; XNNPACK takes what a GPU delegate leaves."""
    found = list(_DELEGATED.finditer(text))
    gpu = [match for match in found if "xnnpack" not in match[3].lower()]
    return max(gpu or found, key=lambda match: int(match[2]), default=None)
