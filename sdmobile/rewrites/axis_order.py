"""Finds how a permutation of many axes is done by few transpositions of at most four.

    (h, w, p, q, c) ─▶ (c, h, p, w, q):    (h, w, p, q·c) ─▶ (h, p, w, q·c),    (h·p, w·q, c) ─▶ (c, h·p, w·q)

Axes that stay side by side are one axis; so an order of blocks, at most four at a time, is always enough in the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from heapq import heappop, heappush
from itertools import accumulate, combinations, pairwise, permutations
from math import prod
from operator import mul

MOST = 4
"""Axes that a GPU's or the Neural Engine's tensors have."""
_EDGE = -1
Blocks = tuple[tuple[int, ...], ...]  # axes that are taken as one, in order
Step = tuple[tuple[int, ...], tuple[int, ...]]


@lru_cache(maxsize=64)
def transpositions(
    sizes: tuple[int, ...], order: tuple[int, ...], source: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[Step, ...]:
    """Returns the fewest transpositions of at most four axes that make up a permutation.

    Of equally few, those are taken that move longer rows as they are. The first one has the axes of the source and the
    last one those of the result where they can, so that they are ordinary changes of an image's layout.

    Args:
        sizes: of the axes that are permuted.
        order: which axis comes first, second, …
        source: shape before the permutation, in which axes may be joined.
        shape: that after it.

    Returns:
        Of each transposition the shape that it takes and the order of its axes.
    """
    kept = [axis for axis in range(len(sizes)) if sizes[axis] != 1 or axis == order[0] == 0]
    path = _shortest(tuple(kept), tuple(axis for axis in order if axis in kept), sizes)
    steps = [_taken(before, after) for before, after in pairwise(path)]
    if steps:
        steps[0] = _split(*steps[0], _pieces(steps[0][0], sizes, source))
        steps[-1] = _split(*steps[-1], _pieces(steps[-1][1], sizes, shape))
    return tuple(
        (tuple(prod(sizes[axis] for axis in block) for block in before), tuple(before.index(b) for b in after))
        for before, after in steps
    )


def _shortest(start: tuple[int, ...], goal: tuple[int, ...], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Returns the orders of axes on the cheapest way from one to another, by the A* method."""
    together = set(zip((_EDGE, *goal), (*goal, _EDGE), strict=True))
    best = {start: 0.0}
    came: dict[tuple[int, ...], tuple[int, ...]] = {}
    waiting = [(0.0, start)]
    while waiting[0][1] != goal:
        _, state = heappop(waiting)
        for after in _neighbours(state):
            rows = prod(sizes[axis] for axis in _common_end(state, after))
            cost = best[state] + 1 + 1 / (1 + rows)  # two steps cost more than any one
            if cost < best.get(after, math.inf):
                best[after], came[after] = cost, state
                heappush(waiting, (cost + _least_steps(after, together), after))
    path = [goal]
    while path[-1] != start:
        path.append(came[path[-1]])
    return path[::-1]


def _least_steps(state: tuple[int, ...], together: set[tuple[int, int]]) -> int:
    """Returns how many steps must follow at least: one gives at most five axes, edges included, another neighbour."""
    apart = sum(pair not in together for pair in zip((_EDGE, *state), (*state, _EDGE), strict=True))
    return -(-apart // (MOST + 1))


def _neighbours(state: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yields the orders that one transposition of at most four blocks makes."""
    for count in range(2, min(MOST, len(state)) + 1):
        for cuts in combinations(range(1, len(state)), count - 1):
            ends = (0, *cuts, len(state))
            blocks = [state[a:b] for a, b in pairwise(ends)]
            for arranged in permutations(blocks):
                yield tuple(axis for block in arranged for axis in block)


def _common_end(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    length = 0
    while length < len(one) and one[-1 - length] == other[-1 - length]:
        length += 1
    return one[len(one) - length :]


def _taken(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[Blocks, Blocks]:
    """Returns the fewest blocks whose order tells two orders of axes apart."""
    follows = set(pairwise(after))
    blocks: list[tuple[int, ...]] = []
    for axis in before:
        if blocks and (blocks[-1][-1], axis) in follows:
            blocks[-1] += (axis,)
        else:
            blocks.append((axis,))
    return tuple(blocks), tuple(sorted(blocks, key=lambda block: after.index(block[0])))


def _pieces(blocks: Blocks, sizes: Sequence[int], shape: Sequence[int]) -> dict[tuple[int, ...], Blocks]:
    """Returns each block cut where an axis of a shape ends."""
    ends = set(accumulate(shape, mul))
    pieces: dict[tuple[int, ...], Blocks] = {}
    size = 1
    for block in blocks:
        parts: list[tuple[int, ...]] = []
        for axis in block:
            if parts and size not in ends:
                parts[-1] += (axis,)
            else:
                parts.append((axis,))
            size *= sizes[axis]
        pieces[block] = tuple(parts)
    return pieces


def _split(before: Blocks, after: Blocks, pieces: dict[tuple[int, ...], Blocks]) -> tuple[Blocks, Blocks]:
    """Returns the pieces in the orders of their blocks, if they are at most four."""
    if sum(map(len, pieces.values())) > MOST:
        return before, after
    return tuple(p for block in before for p in pieces[block]), tuple(p for block in after for p in pieces[block])
