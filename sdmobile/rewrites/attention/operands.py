"""Operands of the two matrix products of an attention that is written out.

    product[..., m, n] = scale · Σ_c left[..., m, c] · right[..., n, c]

A product may be written as matmul, bmm, baddbmm or einsum, of operands that are transposed, permuted, scaled or cast
first. Here every way is brought to one: a node, the order of its axes, and a factor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.fx import Node

from sdmobile.rewrites.operators import arguments, shape_of

_aten = torch.ops.aten

CASTS = (_aten.to.dtype, _aten.to.dtype_layout, _aten._to_copy.default, _aten.type_as.default)
IDLE = (_aten.contiguous.default, _aten.clone.default, _aten.alias.default, _aten.detach.default, *CASTS)
PRODUCTS = (_aten.matmul.default, _aten.bmm.default, _aten.baddbmm.default, _aten.einsum.default)
_SWAPS = (_aten.transpose.int, _aten.swapaxes.default, _aten.swapdims.default)
_LAST_TWO = (_aten.mT.default, _aten.adjoint.default, _aten.t.default)


@dataclass(frozen=True)
class Operand:
    """A node, its axes in the order in which they are used, and a factor.

    Args:
        node: the tensor.
        axes: `node.permute(axes)` has the axes of the canonical order: batch axes, then rows, then columns.
        scale: the operand is this multiple of the node.
    """

    node: Node
    axes: tuple[int, ...]
    scale: float = 1.0

    def swapped(self) -> Operand:
        """Returns the operand with rows and columns exchanged."""
        return replace(self, axes=(*self.axes[:-2], self.axes[-1], self.axes[-2]))

    def shape(self) -> tuple[int, ...]:
        """Returns the shape in canonical order."""
        shape = shape_of(self.node)
        return tuple(shape[axis] for axis in self.axes)


@dataclass(frozen=True)
class Product:
    """A matrix product over the last axis of both operands.

    Args:
        left, right: (..., M, C) and (..., N, C).
        axes: `canonical.permute(axes)` is the node's value.
        added: what baddbmm adds, and its factor.
    """

    left: Operand
    right: Operand
    axes: tuple[int, ...]
    added: tuple[Node, float] | None = None


def operand(node: Node) -> Operand:
    """Returns the operand that a node is, looking through what only moves axes, scales or casts."""
    outer = Operand(node, tuple(range(len(shape_of(node)))))
    while (inner := _look_through(outer)) is not None:
        outer = inner
    return outer


def first(node: Node) -> Node:
    """Returns a node's first argument, which all operators looked through here take as a tensor."""
    return cast(Node, node.args[0])


def _look_through(outer: Operand) -> Operand | None:
    """Returns the same operand in terms of the node's own input, or None if the node does something else."""
    node = outer.node
    if node.op != "call_function":
        return None
    if node.target in IDLE:
        return replace(outer, node=first(node)) if _keeps_kind(node) else None
    factor = scaled_by(node)
    if factor is not None:
        return replace(outer, node=factor[0], scale=outer.scale * factor[1])
    order = permutation(node)
    if order is None:
        return None
    return replace(outer, node=first(node), axes=tuple(order[axis] for axis in outer.axes))


def _keeps_kind(node: Node) -> bool:
    """Returns whether a cast stays among floating-point types, so that looking through it changes rounding only."""
    return first(node).meta["val"].is_floating_point() and node.meta["val"].is_floating_point()


def permutation(node: Node) -> tuple[int, ...] | None:
    """Returns the order of axes that a node gives its first argument, or None if it does more."""
    rank = len(shape_of(node)) if isinstance(node.meta.get("val"), torch.Tensor) else 0
    if node.target is _aten.permute.default:
        return tuple(axis % rank for axis in cast(list[int], node.args[1]))
    if node.target in _SWAPS:
        first_axis, second_axis = (axis % rank for axis in cast(tuple[int, ...], node.args[1:3]))
    elif node.target in _LAST_TWO and rank >= 2:
        first_axis, second_axis = rank - 2, rank - 1
    else:
        return None
    order = list(range(rank))
    order[first_axis], order[second_axis] = second_axis, first_axis
    return tuple(order)


def scaled_by(node: Node) -> tuple[Node, float] | None:
    """Returns (x, c) if the node is x · c or x / c with a number c, else None."""
    if node.target not in (_aten.mul.Tensor, _aten.mul.Scalar, _aten.div.Tensor, _aten.div.Scalar):
        return None
    x, c = node.args[:2]
    if not isinstance(x, Node) or not isinstance(c, int | float):
        return None
    if node.target in (_aten.div.Tensor, _aten.div.Scalar):
        return (x, 1.0 / c) if c else None
    return x, float(c)


def product(node: Any) -> Product | None:
    """Returns the product that a node is, or None if it is another node or a product of another kind."""
    if not isinstance(node, Node) or node.target not in PRODUCTS:
        return None
    if node.target is _aten.einsum.default:
        return _einsum(node)
    operands = arguments(node)
    if node.target is _aten.matmul.default:
        left, right = operands["self"], operands["other"]
    elif node.target is _aten.bmm.default:
        left, right = operands["self"], operands["mat2"]
    else:
        left, right = operands["batch1"], operands["batch2"]
    rank = len(shape_of(node))
    if rank < 3 or len(shape_of(left)) != rank or len(shape_of(right)) != rank:
        return None
    unscaled = Product(operand(left), operand(right).swapped(), tuple(range(rank)))
    if node.target is not _aten.baddbmm.default:
        return unscaled
    alpha, beta = float(operands["alpha"]), float(operands["beta"])
    scaled = replace(unscaled.left, scale=unscaled.left.scale * alpha)
    return replace(unscaled, left=scaled, added=(operands["self"], beta) if beta else None)


def _einsum(node: Node) -> Product | None:
    """Returns the product that an einsum of two operands is: one summed letter, one free letter of each operand."""
    equation, tensors = str(node.args[0]).replace(" ", ""), cast(list[Node], node.args[1])
    if len(tensors) != 2 or "->" not in equation or "." in equation:
        return None
    inputs, output = equation.split("->")
    a, b = inputs.split(",")
    if any(len(set(letters)) != len(letters) for letters in (a, b, output)):
        return None
    batch = [letter for letter in output if letter in a and letter in b]
    summed = [letter for letter in a if letter in b and letter not in output]
    rows = [letter for letter in a if letter not in b and letter in output]
    columns = [letter for letter in b if letter not in a and letter in output]
    if not len(summed) == len(rows) == len(columns) == 1 or {len(a), len(b)} != {len(batch) + 2}:
        return None
    left = _ordered(operand(tensors[0]), a, [*batch, *rows, *summed])
    right = _ordered(operand(tensors[1]), b, [*batch, *columns, *summed])
    canonical = [*batch, *rows, *columns]
    return Product(left, right, tuple(canonical.index(letter) for letter in output))


def _ordered(operand: Operand, letters: str, wanted: list[str]) -> Operand:
    return replace(operand, axes=tuple(operand.axes[letters.index(letter)] for letter in wanted))
