"""Finds the values of a file that correspond to the outputs of PyTorch's modules, and the first that differs.

A file's names tell the module that a value comes from, not which of the module's values it is, and rewriting changes
what lies inside a module. So a module's output is looked for among the file's values of that module: of the same number
of elements, in any order of axes that gives the file's shape, the one that agrees best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.validate.metrics import psnr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.validate.bisect.graph import ExportedGraph
    from sdmobile.validate.bisect.reference import ModuleOutput


@dataclass(frozen=True)
class Match:
    """A module's output and the file's value for it.

    Args:
        module: path of the module.
        value: name of the value in the file.
        expected: PyTorch's output in the file's layout.
        psnr_db: the file's value against it, in the file's own run.
    """

    module: str
    value: str
    expected: NDArray[np.float32]
    psnr_db: float

    def agrees(self, least_db: float) -> bool:
        """Whether the two are the same but for rounding; NaN never is."""
        return self.psnr_db >= least_db


def name_by_content(
    graph: ExportedGraph, values: Mapping[str, NDArray[Any]], outputs: Sequence[ModuleOutput], least_db: float
) -> None:
    """Gives operations whose names tell nothing the module whose output their value equals.

    Converters name the operations themselves that they write for one operator, such as those of a norm.

    Args:
        graph: the file; its operations are given modules.
        values: its floating-point values, in float32 arithmetic where the file's runtime is less exact.
        outputs: PyTorch's, of the same inputs.
        least_db: from which level on values count as the same.
    """
    named = {op.module for op in graph.ops}
    nameless = [name for op in graph.ops if op.module is None for name in op.outputs if name in values]
    found = {}
    for output in outputs:
        if output.module not in named:
            match = _best(output, nameless, values, least_db)
            if match is not None and match.agrees(least_db):
                found[match.value] = output.module
    graph.set_modules(found)


def match_modules(
    graph: ExportedGraph, values: Mapping[str, NDArray[Any]], outputs: Sequence[ModuleOutput], least_db: float
) -> list[Match]:
    """Returns a match for each module that the file has a value for, in the order of the file.

    Args:
        graph: the file.
        values: its floating-point values in one run.
        outputs: PyTorch's, of the same inputs.
        least_db: from which level on values count as the same.
    """
    by_module: dict[str, list[str]] = {}
    order: dict[str, int] = {}
    for op in graph.ops:
        for name in op.outputs:
            order[name] = len(order)
            if op.module is not None and name in values:
                by_module.setdefault(op.module, []).append(name)
    matches = [_best(output, by_module.get(output.module, []), values, least_db) for output in outputs]
    return sorted((match for match in matches if match is not None), key=lambda match: order[match.value])


def _best(
    output: ModuleOutput, names: Sequence[str], values: Mapping[str, NDArray[Any]], least_db: float
) -> Match | None:
    """Returns the value that agrees, the last one first; else the last that could be the module's output."""
    fallback: Match | None = None
    for name in reversed(names):
        for expected in layouts(output.array, values[name].shape):
            match = Match(output.module, name, expected, psnr(expected, values[name]))
            if match.agrees(least_db):
                return match
            fallback = fallback or match
    return fallback


def layouts(array: NDArray[np.float32], shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """Yields an array in every order of its axes that has a given shape, axes of length 1 apart; as it lies first."""
    squeezed = array.reshape([length for length in array.shape if length != 1])
    wanted = tuple(length for length in shape if length != 1)
    if sorted(squeezed.shape) == sorted(wanted):
        for axes in permutations(range(squeezed.ndim)):
            if tuple(squeezed.shape[axis] for axis in axes) == wanted:
                yield np.ascontiguousarray(squeezed.transpose(axes)).reshape(shape)
    elif array.size == int(np.prod(shape)):
        yield array.reshape(shape)


def differences(graph: ExportedGraph, matches: Sequence[Match], least_db: float) -> Iterator[Match]:
    """Yields the matches that differ, in the order of the file.

    A match whose nearest matched successors all agree is passed over: the file has no value for that module's output
    (it was fused into the next one), and what was found is something else.
    """
    agreeing = {match.value: match.agrees(least_db) for match in matches}
    for match in matches:
        if not match.agrees(least_db):
            following = [agreeing[name] for name in _next_matched(graph, match.value, agreeing)]
            if not following or not all(following):
                yield match


def _next_matched(graph: ExportedGraph, value: str, matched: Mapping[str, bool]) -> set[str]:
    """Returns the matched values that depend on a value with no matched one between."""
    reached, found = {value}, set[str]()
    for op in graph.ops:  # in an order in which they can run, so one pass reaches everything
        if reached.isdisjoint(op.inputs):
            continue
        for name in op.outputs:
            if name in matched and name != value:
                found.add(name)
            else:
                reached.add(name)
    return found
