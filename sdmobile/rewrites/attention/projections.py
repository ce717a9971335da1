"""The linear projections around an attention, found through whatever splits and merges its heads.

x ─▶ linear ─▶ view, transpose ─▶ attention ─▶ transpose, reshape ─▶ linear
(B, S, C)      (B, H, S, D)       (B, H, S, D)  (B, S, H·D)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.fx import Node

from sdmobile.rewrites.attention.operands import first
from sdmobile.rewrites.operators import arguments, shape_of

_aten = torch.ops.aten
_MOVES = (
    _aten.view.default,
    _aten.reshape.default,
    _aten._unsafe_view.default,
    _aten.permute.default,
    _aten.transpose.int,
    _aten.flatten.using_ints,
    _aten.unflatten.int,
    _aten.unsqueeze.default,
    _aten.squeeze.dim,
    _aten.contiguous.default,
    _aten.clone.default,
)


@dataclass(frozen=True)
class Source:
    """Where an operand of an attention comes from.

    Args:
        x: (B, S, C) in front of the projection; the operand itself, (B, H, S, D), if there is no projection.
        weight, bias: of the projection; None if there is none.
    """

    x: Node
    weight: Node | None = None
    bias: Node | None = None


def source(operand: Node) -> Source:
    """Returns the projection that an operand (B, H, S, D) comes from."""
    moves, node = [], operand
    while node.op == "call_function" and node.target in _MOVES:
        moves.append(node)
        node = first(node)
    if node.target is not _aten.linear.default or len(shape_of(node)) != 3 or len(shape_of(operand)) != 4:
        return Source(operand)
    batch, heads, length, width = shape_of(operand)
    index = torch.arange(batch * length * heads * width, dtype=torch.int32).reshape(shape_of(node))
    expected = index.reshape(batch, length, heads, width).transpose(1, 2) if _fits(index, shape_of(operand)) else None
    if expected is None or not torch.equal(_moved(index, moves[::-1]), expected):
        return Source(operand)
    operands = arguments(node)
    return Source(operands["input"], operands["weight"], operands["bias"])


def _fits(index: Tensor, shape: tuple[int, ...]) -> bool:
    return tuple(index.shape) == (shape[0], shape[2], shape[1] * shape[3])


@dataclass(frozen=True)
class Target:
    """Where the value of an attention goes.

    Args:
        root: the node whose value is (B, M, C): the projection, or the merged heads; the attention itself if its heads
            are not merged.
        merged: whether the heads are merged at the root.
        weight, bias: of the projection; None if there is none.
    """

    root: Node
    merged: bool = False
    weight: Node | None = None
    bias: Node | None = None


def target(attention: Node) -> Target:
    """Returns the projection that the value (B, H, M, E) of an attention goes to."""
    if len(shape_of(attention)) != 4:
        return Target(attention)
    batch, heads, length, width = shape_of(attention)
    index = torch.arange(batch * heads * length * width, dtype=torch.int32).reshape(shape_of(attention))
    merged = index.transpose(1, 2).reshape(batch, length, heads * width)
    node, moves = attention, []
    while len(node.users) == 1 and (user := next(iter(node.users))).target in _MOVES:
        node = user
        moves.append(node)
        if shape_of(node) == tuple(merged.shape) and torch.equal(_moved(index, moves), merged):
            return _projected(node)
    return Target(attention)


def _projected(merged: Node) -> Target:
    """Returns the projection of merged heads, if it is all that they are used for."""
    user = next(iter(merged.users)) if len(merged.users) == 1 else None
    if user is None or user.target is not _aten.linear.default or user.args[0] is not merged:
        return Target(merged, True)
    operands = arguments(user)
    return Target(user, True, operands["weight"], operands["bias"])


def _moved(index: Tensor, moves: list[Node]) -> Tensor:
    """Returns a tensor of element numbers after moves: it says what they do, whichever operators they are."""
    for node in moves:
        operator = cast(Callable[..., Tensor], node.target)
        index = operator(index, *node.args[1:], **node.kwargs)
    return index
