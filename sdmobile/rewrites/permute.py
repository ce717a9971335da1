"""Permutations of more than four axes between two reshapes, as transpositions of at most four.

Patches become pixels and pixels patches so: (N, H, W, P, Q, C) to (N, C, H·P, W·Q), with or without an einsum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdmobile.rewrites.axis_order import MOST, transpositions
from sdmobile.rewrites.operators import shape_of
from sdmobile.rewrites.rule import Exactness, Match, Rule

if TYPE_CHECKING:
    from torch.fx import Graph, Node

_aten = torch.ops.aten
_RESHAPES = (_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default, _aten.unflatten.int)
_JOINS = (*_RESHAPES, _aten.flatten.using_ints)
_COPIES = (_aten.contiguous.default, _aten.clone.default)


class PermuteRank4(Rule):
    """Matches reshape, permutation, reshape where only what lies between has more than four axes.

    Tensors of the GPU engine and of the Neural Engine have four axes at most. Axes that stay side by side are
    moved as one. Patches to pixels take two transpositions, as do pixels to patches.

    Captured:
        v = view(x, [N, H, W, P, Q, C])                                 (N, H, W, P, Q, C)
        y = reshape(permute(v, [0, 5, 1, 3, 2, 4]))                     (N, C, H·P, W·Q)

    Rewritten:
        t = permute(reshape(x), [0, 2, 1, 3])                           (N·H, P, W, Q·C), of (N·H, W, P, Q·C)
        y = permute(reshape(t), [0, 3, 1, 2])                           (N, C, H·P, W·Q), of (N, H·P, W·Q, C)
    """

    name = "permute_rank_4"
    title = "Permutations of more than four axes as transpositions of at most four"
    source = "own lint and GPU check of SD3, PixArt and SANA: RESHAPE and TRANSPOSE of rank 6 are refused"
    exactness = Exactness.EXACT
    bound_db = math.inf

    def matches(self, graph: Graph) -> Iterable[Match]:
        for node in graph.nodes:
            order = _order(node)
            match = None if order is None or len(order) <= MOST else _match(node, order)
            if match is not None:
                yield match

    def check(self, match: Match) -> str | None:
        sizes = match.options["sizes"]
        return None if all(isinstance(n, int) for n in sizes) else f"the shape {sizes} is not static"

    def replacement(
        self, x: Tensor, *, sizes: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, ...]
    ) -> Tensor:
        return permuted(x, sizes, order, shape)

    def details(self, match: Match) -> dict[str, Any]:
        return {"axes": list(match.options["sizes"]), "order": list(match.options["order"])}


def permuted(x: Tensor, sizes: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Returns x.reshape(sizes).permute(order).reshape(shape) without a tensor of more than four axes between.

    Args:
        x: of as many elements as `sizes`.
        sizes: of the axes that are permuted.
        order: which axis comes first, second, …
        shape: of the result.
    """
    for taken, moved in transpositions(sizes, order, tuple(x.shape), shape):
        x = x.reshape(taken).permute(moved)
    return x.reshape(shape)


def _order(node: Node) -> tuple[int, ...] | None:
    """Returns the order of axes that a node permutes its operand to, None if it does something else."""
    if node.target is _aten.permute.default:
        rank = len(node.args[1])  # type: ignore[arg-type]
        return tuple(axis % rank for axis in node.args[1])  # type: ignore[union-attr]
    if node.target is _aten.transpose.int:
        axes = list(range(len(shape_of(node))))
        one, other = node.args[1:3]
        axes[one], axes[other] = axes[other], axes[one]  # type: ignore[index]
        return tuple(axes)
    if node.target is _aten.einsum.default and len(node.args[1]) == 1:  # type: ignore[arg-type]
        taken, _, given = str(node.args[0]).replace(" ", "").partition("->")
        if sorted(taken) == sorted(given) == sorted(set(taken)) and taken.isalpha():
            return tuple(taken.index(letter) for letter in given)
    return None


def _match(node: Node, order: tuple[int, ...]) -> Match | None:
    """Returns the match around a permutation, if a reshape is before and after it and nothing else uses them."""
    before = node.all_input_nodes[0]
    covers = [before, node]
    last = node
    while len(last.users) == 1 and (following := next(iter(last.users))).target in (*_COPIES, *_JOINS):
        covers.append(following)
        last = following
        if last.target in _JOINS:
            break
    if before.target not in _RESHAPES or len(before.users) != 1 or last.target not in _JOINS:
        return None
    source = before.all_input_nodes[0]
    if max(len(shape_of(source)), len(shape_of(last))) > MOST:
        return None
    options = {"sizes": shape_of(before), "order": order, "shape": shape_of(last)}
    return Match(last, (source,), options, tuple(covers))
