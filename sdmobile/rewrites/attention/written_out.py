"""Reads an attention that is written out in a graph.

out = softmax(scale · q kᵀ + mask) v

product ◀── probabilities ◀── softmax ◀── scores ◀── (+ mask, · scale, masked_fill, where, view, cast) ◀── product
   └── v                                                                                      q and k ──┘
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch.fx import Graph, Node

from sdmobile.rewrites.attention.operands import IDLE, PRODUCTS, Operand, Product, first, operand, product, scaled_by
from sdmobile.rewrites.operators import arguments, shape_of

_aten = torch.ops.aten
_SOFTMAX = (_aten.softmax.int, _aten._softmax.default)
_VIEWS = (_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default)
_WHERE = (_aten.where.ScalarOther, _aten.where.self)
# exp of a score that is 10⁴ below another is zero in every floating-point type.
_MINUS_INFINITY = -1e4


class MaskKind(str, Enum):
    """What a mask says: what is added to the scores, which keys are kept, or which are dropped."""

    ADDED = "added"
    KEPT = "kept"
    DROPPED = "dropped"


class Unreadable(Exception):
    """Why a softmax between two products is not an attention that can be raised."""


@dataclass(frozen=True)
class Mask:
    """A mask as it stands in the graph.

    Args:
        node: the tensor.
        kind: what it says; booleans keep or drop.
        factor: what an added mask is multiplied by.
        shape: shape of the scores where the mask is applied.
    """

    node: Node
    kind: MaskKind
    factor: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class WrittenAttention:
    """The parts of an attention.

    Args:
        root: the node that has the attention's value.
        query, key, value: (..., M, D), (..., N, D) and (..., N, E).
        scale: factor of the product of query and key; `read` includes those of the two operands.
        mask: None if there is none.
        mask_axes: order of the mask's axes, aligned to the scores' rank, that makes it (..., M, N).
        axes: order of the axes of (..., M, E) that makes the root's value.
        batch: shape to which the leading axes of all operands are brought.
    """

    root: Node
    query: Operand
    key: Operand
    value: Operand
    scale: float
    mask: Mask | None
    mask_axes: tuple[int, ...]
    axes: tuple[int, ...]
    batch: tuple[int, ...]


@dataclass(frozen=True)
class _Scores:
    """What lies between a product and a softmax."""

    product: Product
    scale: float
    mask: Mask | None


def candidates(graph: Graph) -> Iterable[tuple[Node, Product, Node]]:
    """Returns the products of which one operand is a softmax: (root, product, softmax), in graph order."""
    for node in graph.nodes:
        last = product(node) if node.target in PRODUCTS else None
        softmax = None if last is None else _softmax_of(last)
        if last is not None and softmax is not None:
            yield node, last, softmax


def _softmax_of(last: Product) -> Node | None:
    nodes = (last.left.node, last.right.node)
    return next((node for node in nodes if node.target in _SOFTMAX), None)


def read(root: Node, last: Product, softmax: Node) -> WrittenAttention:
    """Returns the parts of the attention around a softmax.

    Args:
        root: the product with the value.
        last: what `product` says of it.
        softmax: one of its operands.

    Raises:
        Unreadable: something is not as in an attention.
    """
    on_left = last.left.node is softmax
    probabilities, value = (last.left, last.right.swapped()) if on_left else (last.right, last.left.swapped())
    if last.added is not None or probabilities.scale != 1.0 or value.scale != 1.0:
        raise Unreadable("the product with the value scales or adds something")
    rank = len(probabilities.axes)
    axis = arguments(softmax)["dim"]
    if axis % rank != probabilities.axes[-1]:
        raise Unreadable(f"the softmax is over axis {axis}, which the product with the value does not sum")
    scores = _read_scores(softmax.args[0])
    query, key = _roles(scores.product, probabilities.axes)
    # With the probabilities on the right, the product is (..., E, M).
    order = tuple(range(rank)) if on_left else (*range(rank - 2), rank - 1, rank - 2)
    axes = tuple(order[axis] for axis in last.axes)
    written = WrittenAttention(
        root, query, key, value, scores.scale, scores.mask, probabilities.axes, axes, query.shape()[:-2]
    )
    written = _with_heads(_checked(written))
    scale = written.scale * written.query.scale * written.key.scale
    if scale <= 0:
        raise Unreadable(f"the scale is {scale:g}")
    return replace(written, scale=scale)


def _roles(scores: Product, axes: tuple[int, ...]) -> tuple[Operand, Operand]:
    """Returns query and key: the operand with the softmax's axis is the key; batch axes in the probabilities' order."""
    rank = len(axes)
    if len(scores.axes) != rank:
        raise Unreadable("the scores change their rank around an operator that permutes axes")
    order = [scores.axes[axis] for axis in axes]
    if order[-1] < rank - 2 or order[-2] < rank - 2:
        raise Unreadable("the softmax is over an axis that both operands share")
    query, key = (scores.left, scores.right) if order[-1] == rank - 1 else (scores.right, scores.left)

    def arranged(side: Operand) -> Operand:
        return replace(side, axes=(*(side.axes[axis] for axis in order[:-2]), *side.axes[-2:]))

    return arranged(query), arranged(key)


def _checked(written: WrittenAttention) -> WrittenAttention:
    """Returns its argument if the shapes are those of an attention without broadcasting."""
    query, key, value = written.query.shape(), written.key.shape(), written.value.shape()
    if any(not isinstance(size, int) for size in (*query, *key, *value)):
        raise Unreadable(f"the shapes {query}, {key}, {value} are not static")
    if not query[:-2] == key[:-2] == value[:-2] or query[-1] != key[-1] or key[-2] != value[-2]:
        raise Unreadable(f"query {query}, key {key} and value {value} are broadcast")
    return written


def _read_scores(node: object) -> _Scores:
    """Walks from the softmax's input down to the product of query and key."""
    scale, mask = 1.0, None
    while isinstance(node, Node):
        innermost = product(node)
        if innermost is not None:
            return _finish(node, innermost, scale, mask)
        inner, factor, met = _step(node, scale)
        if met is not None and mask is not None:
            raise Unreadable("there are two masks")
        node, scale, mask = inner, scale * factor, mask or met
    raise Unreadable("the softmax is not of a product")


def _finish(node: Node, innermost: Product, scale: float, mask: Mask | None) -> _Scores:
    """Returns the scores with what baddbmm adds as their mask."""
    if innermost.added is not None:
        if mask is not None:
            raise Unreadable("there are two masks")
        mask = Mask(innermost.added[0], MaskKind.ADDED, innermost.added[1] * scale, shape_of(node))
    return _Scores(innermost, scale, mask)


def _step(node: Node, scale: float) -> tuple[Node, float, Mask | None]:
    """Returns what a node between softmax and product works on, its factor, and its mask.

    Args:
        node: the node.
        scale: factors met so far: they apply to this node's mask too.
    """
    shape = shape_of(node)
    if node.target in IDLE or (node.target in _VIEWS and shape_of(first(node))[-2:] == shape[-2:]):
        return first(node), 1.0, None
    scaled = scaled_by(node)
    if scaled is not None:
        return *scaled, None
    if node.target is _aten.add.Tensor and arguments(node)["alpha"] == 1:
        scores, added = _operands_of_add(node)
        return scores, 1.0, Mask(added, MaskKind.ADDED, scale, shape)
    operands = arguments(node) if node.op == "call_function" and hasattr(node.target, "_schema") else {}
    if node.target is _aten.masked_fill.Scalar and operands["value"] <= _MINUS_INFINITY:
        return operands["self"], 1.0, Mask(operands["mask"], MaskKind.DROPPED, 1.0, shape)
    if node.target in _WHERE and _number(operands["other"]) <= _MINUS_INFINITY:
        return operands["self"], 1.0, Mask(operands["condition"], MaskKind.KEPT, 1.0, shape)
    raise Unreadable(f"{node.target} stands between the product and the softmax")


def _operands_of_add(node: Node) -> tuple[Node, Node]:
    """Returns scores and mask of a sum: the scores are the operand that comes from a product."""
    left, right = node.args[:2]
    for scores, mask in ((left, right), (right, left)):
        if isinstance(scores, Node) and isinstance(mask, Node) and _leads_to_product(scores):
            if shape_of(scores) != shape_of(node):
                raise Unreadable(f"the mask {shape_of(mask)} broadcasts the scores {shape_of(scores)}")
            return scores, mask
    raise Unreadable("a sum stands between the product and the softmax, and neither operand is a product")


def _leads_to_product(node: Node) -> bool:
    try:
        _read_scores(node)
    except Unreadable:
        return False
    return True


def _number(value: object) -> float:
    """Returns a number, or the number that a node fills a tensor with; 0 if it does neither."""
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Node) and value.target in (_aten.full.default, _aten.full_like.default):
        return float(arguments(value)["fill_value"])
    if isinstance(value, Node) and value.target is _aten.scalar_tensor.default:
        return float(arguments(value)["s"])
    return 0.0


def _with_heads(written: WrittenAttention) -> WrittenAttention:
    """Returns the attention with batch and heads as two axes where the graph says what they are.

    Many sources merge (B, H, S, D) to (B·H, S, D) for bmm; on (B, H, S, D) the heads are known.
    """
    whole = [_unmerged(o) for o in (written.query, written.key, written.value)]
    separate = [o for o in whole if o is not None]
    if len(separate) == 3 and separate[2].scale == 1.0 and len({o.shape()[:-2] for o in separate}) == 1:
        query, key, value = separate
        separated = replace(written, query=query, key=key, value=value, batch=query.shape()[:-2])
        return _without_merging(separated)
    if written.mask is not None and len(written.mask.shape) != len(written.axes):
        return replace(written, batch=written.mask.shape[:-2])
    return written


def _without_merging(written: WrittenAttention) -> WrittenAttention:
    """Returns the attention with the root behind the view that separates batch and heads again, if there is one."""
    user = next(iter(written.root.users)) if len(written.root.users) == 1 else None
    value = (*written.query.shape()[:-1], written.value.shape()[-1])
    if user is None or user.target not in _VIEWS or shape_of(user) != value or written.axes != (0, 1, 2):
        return written
    return replace(written, root=user, axes=(0, 1, 2, 3))


def _unmerged(merged: Operand) -> Operand | None:
    """Returns an operand (B·H, S, D) as the (B, H, S, D) that it was reshaped from; None if it was not."""
    node, axes = merged.node, merged.axes
    if len(axes) != 3 or axes[0] != 0 or node.target not in _VIEWS:
        return None
    before, after = shape_of(first(node)), shape_of(node)
    if len(before) != 4 or before[0] * before[1] != after[0] or before[2:] != after[1:]:
        return None
    inner = operand(first(node))
    order = (0, 1, axes[1] + 1, axes[2] + 1)
    return Operand(inner.node, tuple(inner.axes[axis] for axis in order), merged.scale * inner.scale)
