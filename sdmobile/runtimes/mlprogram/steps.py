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
class Body:
    """A block that is ready to run among the values around it.

    Args:
        inputs: names under which it takes what its operation gives.
        steps: in order.
        outputs: what it returns.
        captured: values from around it that it uses.
        left: values of its own that no step releases.
    """

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Source, ...]
    captured: frozenset[str]
    left: frozenset[str]


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
        bodies: the blocks of control flow.
    """

    operation: Operation
    op: Op
    context: Context
    fixed: dict[str, Any]
    sources: dict[str, tuple[Source, ...]]
    release: tuple[str, ...] = ()
    bodies: tuple[Body, ...] = ()

    def used(self) -> set[str]:
        """Returns the names of the computed values that the step takes."""
        own = {source for sources in self.sources.values() for source in sources if isinstance(source, str)}
        return own.union(*(body.captured for body in self.bodies))


@dataclass(frozen=True)
class Plan:
    """The steps in the order of the program, and the outputs of the program that are constants."""

    steps: tuple[Step, ...]
    constant_outputs: dict[str, Stored]

    def constants(self) -> Iterator[Stored]:
        """Yields the constants that the steps take, in the order in which they are needed."""
        yield from _constants(self.steps)


def _constants(steps: tuple[Step, ...]) -> Iterator[Stored]:
    for step in steps:
        yield from (s for sources in step.sources.values() for s in sources if not isinstance(s, str))
        for body in step.bodies:
            yield from _constants(body.steps)
            yield from (source for source in body.outputs if not isinstance(source, str))
