"""What a plan consists of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sdmobile.formats.mlprogram.ir import Operation
from sdmobile.runtimes.mlprogram.ops.registry import Context, Op
from sdmobile.runtimes.mlprogram.weights import Stored

Source = str | Stored
"""The name of a value that a step computes, or a constant."""


@dataclass(frozen=True)
class Step:
    """One operation that is ready to run.

    Args:
        operation: what the program says.
        op: how it is computed.
        context: what the operation may need beyond its parameters.
        fixed: parameters known now, as Python values.
        sources: the other parameters.
        release: values that no later step needs.
    """

    operation: Operation
    op: Op
    context: Context
    fixed: dict[str, Any]
    sources: dict[str, tuple[Source, ...]]
    release: tuple[str, ...] = ()

    def used(self) -> set[str]:
        """Returns the names of the computed values that the step takes."""
        return {source for sources in self.sources.values() for source in sources if isinstance(source, str)}


@dataclass(frozen=True)
class Plan:
    """The steps in the order of the program, and the outputs of the program that are constants."""

    steps: tuple[Step, ...]
    constant_outputs: dict[str, Stored]

    def constants(self) -> Iterator[Stored]:
        """Yields the constants that the steps take, in the order in which they are needed."""
        for step in self.steps:
            yield from (s for sources in step.sources.values() for s in sources if not isinstance(s, str))
