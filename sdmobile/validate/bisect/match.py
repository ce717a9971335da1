"""Finds the values of a file that correspond to the outputs of PyTorch's modules, and the first that differs.

A file's names tell the module that a value comes from, not which of the module's values it is, and rewriting changes
what lies inside a module. So a module's output is looked for among the file's values of that module: of the same number
of elements, in any order of axes that gives the file's shape, the one that agrees best.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.metrics import psnr

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
    graph: ExportedGraph,
    values: Iterable[tuple[str, NDArray[Any]]],
    outputs: Sequence[ModuleOutput],
    least_db: float,
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
    nameless = {name for op in graph.ops if op.module is None for name in op.outputs}
    sought = [output for output in outputs if output.module not in named]
    best: dict[str, Match] = {}
    for name, array in values:
        for output in sought if name in nameless else ():
            _keep_better(best, output, name, array, least_db)
    graph.set_modules({match.value: match.module for match in best.values() if match.agrees(least_db)})


def match_modules(
    graph: ExportedGraph,
    values: Iterable[tuple[str, NDArray[Any]]],
    outputs: Sequence[ModuleOutput],
    least_db: float,
) -> list[Match]:
    """Returns a match for each module that the file has a value for, in the order of the file.

    Of the values that agree the last one is taken; if none does, the last one that could be the module's output.

    Args:
        graph: the file.
        values: its floating-point values in one run, in its order; none is kept.
        outputs: PyTorch's, of the same inputs.
        least_db: from which level on values count as the same.
    """
    sought = {output.module: output for output in outputs}
    modules = {name: op.module for op in graph.ops for name in op.outputs}
    order = {name: index for index, name in enumerate(modules)}
    best: dict[str, Match] = {}
    for name, array in values:
        output = sought.get(modules.get(name) or "")
        if output is not None:
            _keep_better(best, output, name, array, least_db)
    return sorted(best.values(), key=lambda match: order[match.value])


def _keep_better(best: dict[str, Match], output: ModuleOutput, name: str, array: NDArray[Any], least_db: float) -> None:
    """Notes a value for a module if it agrees with its output, or if it could be that and none agreed so far."""
    known = best.get(output.module)
    for expected in layouts(output.array, array.shape):
        match = Match(output.module, name, expected, psnr(expected, array))
        if match.agrees(least_db):
            best[output.module] = match
            return
        if best.get(output.module) is known and not (known and known.agrees(least_db)):
            best[output.module] = match  # in the first layout that fits


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
            following = [agreeing[name] for name in next_matched(graph, match.value, agreeing)]
            if not following or not all(following):
                yield match


def next_matched(graph: ExportedGraph, value: str, matched: Mapping[str, bool]) -> set[str]:
    """Returns the matched values that depend on a value with no matched one between."""
    reached, following = {value}, set[str]()
    for op in graph.ops:  # in an order in which they can run, so one pass reaches everything
        if reached.isdisjoint(op.inputs):
            continue
        for name in op.outputs:
            if name in matched and name != value:
                following.add(name)
            else:
                reached.add(name)
    return following
