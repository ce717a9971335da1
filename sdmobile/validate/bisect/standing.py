"""Whether a value of a file that differs from a module's output is that output, or another quantity of the module.

A rewrite may compute a module in other steps and fold its last one into the next module: GroupNorm that divides by the
largest magnitude first, with its scale moved on. Then no value of the file is the module's output, and the one that was
matched with it, of the same shape, differs without anything being wrong. So the difference has to matter: later values
must be wrong because of this one, and right once it holds what PyTorch computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sdmobile.validate.bisect.match import next_matched

if TYPE_CHECKING:
    from sdmobile.validate.bisect.match import Match
    from sdmobile.validate.bisect.run import Case

MOST_LATER = 6  # later modules that are asked


def stands_for_its_module(case: Case, match: Match) -> bool:
    """Whether PyTorch's value in the place of one that differs repairs a later value that is wrong because of it.

    The component's output is what its contract says and needs no proof.

    Args:
        case: a recorded call on both sides.
        match: a module and the file's value that differs from its output.
    """
    from sdmobile.validate.bisect.save import run_part

    if match.value == case.graph.output:
        return True
    for later in _later(case, match):
        part = case.part(later, {match.value: match.expected})
        if match.value not in part.piece.inputs:
            continue
        repaired = run_part(case.graph, part) >= case.least_db
        if repaired and not run_part(case.graph, case.part(later)) >= case.least_db:
            return True
    return False


def _later(case: Case, match: Match) -> Iterator[Match]:
    """Yields the matches that depend on one, the nearest first."""
    by_value = {one.value: one for one in case.matches}
    agreeing = {one.value: one.agrees(case.least_db) for one in case.matches}
    waiting, seen = [match.value], {match.value}
    while waiting and len(seen) <= MOST_LATER:
        following = next_matched(case.graph, waiting.pop(0), agreeing) - seen
        for value in (one.value for one in case.matches if one.value in following):
            seen.add(value)
            waiting.append(value)
            yield by_value[value]
