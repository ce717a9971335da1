"""The quarter turn within rotary position embeddings, as a product with a constant matrix of 1, −1 and 0.

    y = x · cos + turned(x) · sin        turned(x₀, x₁) = (−x₁, x₀) for every pair of features

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, equation 34.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.rewrites.operators import arguments, shape_of
from sdmobile.rewrites.pattern import Call, Const, Item, Var, match
from sdmobile.rewrites.rule import Exactness, Match, Rule

if TYPE_CHECKING:
    from torch.fx import Graph, Node

_aten = torch.ops.aten
_RESHAPES = (_aten.reshape.default, _aten.view.default, _aten.unflatten.int, _aten._unsafe_view.default)
_JOINS = (*_RESHAPES, _aten.flatten.using_ints)
_SPLIT = Call(_aten.unbind.int, Call(_RESHAPES, Var("x"), name="pairs"), Const("axis"))
_FIRST, _SECOND = Item(_SPLIT, 0), Call(_aten.neg.default, Item(_SPLIT, 1))


class RotaryTurn(Rule):
    """Matches the quarter turn of pairs of neighbouring features, or of the two halves of them, written with five axes.

    The matrix costs D² multiplications a head and position, a few in a hundred of the projections; slices of every
    second feature, stacked again, cost copies, and an axis that GPUs do not have.

    Captured:
        a, b = unbind(reshape(x, [B, S, H, D/2, 2]), -1)                (B, S, H, D/2) each
        y = flatten(stack([neg(b), a], -1), 3)                          (B, S, H, D), of (B, S, H, D/2, 2)

    Rewritten:
        y = linear(x, J)                                                (B, S, H, D), of J (D, D)
    """

    name = "rotary_turn"
    title = "The quarter turn of rotary embeddings as a product with a constant"
    source = "Su et al. 2021, equation 34; own count of LiteRT operators of a tiny FLUX.2: 249 where slices have 334"
    exactness = Exactness.EXACT  # sums of one value and zeros
    bound_db = math.inf

    def matches(self, graph: Graph) -> Iterable[Match]:
        for node in graph.nodes:
            found = _pairs(node) if node.target is _aten.stack.default else _halves(node)
            if found is not None:
                yield found

    def replacement(self, x: Tensor, *, halves: bool) -> Tensor:
        return turned(x, halves)

    def details(self, match: Match) -> dict[str, Any]:
        return {"features": match.shape()[-1], "of": "halves" if match.options["halves"] else "pairs"}


def turned(x: Tensor, halves: bool) -> Tensor:
    """Returns (−x₁, x₀) for every pair (x₀, x₁) of features.

    Args:
        x: (..., D).
        halves: a pair is of feature i and i + D/2, not of neighbours.
    """
    size = x.shape[-1]
    matrix = [[0.0] * size for _ in range(size)]
    for i in range(size // 2):
        first, second = (i, i + size // 2) if halves else (2 * i, 2 * i + 1)
        matrix[first][second], matrix[second][first] = -1.0, 1.0
    return F.linear(x, torch.tensor(matrix, dtype=x.dtype))


def _pairs(stack: Node) -> Match | None:
    """Returns the turn of neighbours around a stack, with the reshape behind it."""
    rank = len(shape_of(stack))
    users = list(stack.users)
    if arguments(stack)["dim"] not in (-1, rank - 1) or len(users) != 1 or users[0].target not in _JOINS:
        return None
    return _turn(stack.args[0], rank - 1, users[0], (users[0], stack), halves=False)


def _halves(cat: Node) -> Match | None:
    """Returns the turn of halves at a concatenation, written with an axis for the two."""
    if cat.target is not _aten.cat.default or arguments(cat)["dim"] not in (-1, len(shape_of(cat)) - 1):
        return None
    return _turn(cat.args[0], len(shape_of(cat)) - 1, cat, (cat,), halves=True)


def _turn(operands: Any, axis: int, root: Node, covers: tuple[Node, ...], halves: bool) -> Match | None:
    """Returns the match if the operands are (−x₁, x₀) and the result has the shape of x."""
    if len(operands) != 2:
        return None
    found = match(_SECOND, operands[0])
    other = None if found is None else match(_FIRST, operands[1])
    if found is None or other is None or found["pairs"] is not other["pairs"]:
        return None
    x, split = found["x"], shape_of(found["pairs"])
    if found["axis"] % len(split) != axis or shape_of(root) != shape_of(x) or split[:-2] != shape_of(x)[:-1]:
        return None
    return Match(root, (x,), {"halves": halves}, covers)
