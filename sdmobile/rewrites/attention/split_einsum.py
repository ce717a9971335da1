"""Split-einsum attention for Apple's Neural Engine.

    q, k, v = 1×1 convolutions of x            (B, H·D, 1, S)
    w[b,k,1,q] = softmax over k of Σ_c q[b,c,1,q] · k[b,k,1,c]           for every head
    out[b,c,1,q] = Σ_k v[b,c,1,k] · w[b,k,1,q]

Channels first and a height of one is the layout that the Neural Engine works in; a head at a time keeps the scores
near its cache and needs no reshape. apple/ml-stable-diffusion `attention.py`, SPLIT_EINSUM and, with blocks of queries,
SPLIT_EINSUM_V2.

The linear projections around an attention, found through whatever splits and merges its heads.

x ─▶ linear ─▶ view, transpose ─▶ attention ─▶ transpose, reshape ─▶ linear
(B, S, C)      (B, H, S, D)       (B, H, S, D)  (B, S, H·D)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionShape
from sdmobile.rewrites.attention.arithmetic import added_mask, default_scale
from sdmobile.rewrites.attention.base import AttentionForm
from sdmobile.rewrites.attention.operands import first
from sdmobile.rewrites.operators import arguments, shape_of
from sdmobile.rewrites.pattern import between
from sdmobile.rewrites.rule import Match

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


@dataclass(frozen=True)
class AttentionSplitEinsum(AttentionForm):
    """Takes the linear projections around the attention along, as convolutions of the same weights.

    Where an operand is not a projection, or the result goes elsewhere, it is brought to the layout and back. In the
    picture h is one of the heads; a mask, as (B, N, 1, M), is added to the scores.

    Captured:
        q = transpose(view(linear(x, Wq)), 1, 2), also k and v          (B, H, S, D) each
        a = scaled_dot_product_attention(q, k, v)                       (B, H, S, D)
        y = linear(reshape(transpose(a, 1, 2)), Wo, bo)                 (B, S, O)

    Rewritten:
        i = unsqueeze(transpose(x, 1, 2), 2)                            (B, C, 1, S)
        q = mul(conv2d(i, reshape(Wq)), 1/√D)                           (B, H·D, 1, S)
        k = transpose(conv2d(i, reshape(Wk)), 1, 3)                     (B, S, 1, H·D)
        v = conv2d(i, reshape(Wv))                                      (B, H·D, 1, S)
        qₕ, kₕ, vₕ = split(q, D, 1), split(k, D, 3), split(v, D, 1)     (B, D, 1, S), (B, S, 1, D), (B, D, 1, S)
        wₕ = softmax(einsum(qₕ, kₕ), 1)                                 (B, S, 1, S), keys before queries
        o = cat(einsum(w₁, v₁), …, einsum(wₙ, vₙ))                      (B, H·D, 1, S)
        y = transpose(squeeze(conv2d(o, reshape(Wo), bo), 2), 1, 2)     (B, S, O)

    Args:
        query_block: most queries of one product (SPLIT_EINSUM_V2 takes 512); None for all at once. More blocks are more
            operators, and Apple's own notes speak of prohibitive compile times for large models.
    """

    name = "attention_split_einsum"
    title = "Attention head by head in (B, C, 1, S), with 1×1 convolutions as projections"
    source = "apple/ml-stable-diffusion@e12202c, python_coreml_stable_diffusion/attention.py"
    form: ClassVar[str] = "split_einsum"

    query_block: int | None = None

    def match(self, node: Node) -> Match:
        operands = arguments(node)
        heads = shape_of(node)[1] if len(shape_of(node)) == 4 else 1
        sources = [source(operands[name]) for name in ("query", "key", "value")]
        after = target(node)
        inputs = [part for s in sources for part in (s.x, s.weight, s.bias)]
        tensors = (*inputs, after.weight, after.bias, operands["attn_mask"])
        options = {
            "heads": heads,
            "merged": after.merged,
            "is_causal": operands["is_causal"],
            "scale": default_scale(operands["query"].meta["val"], operands["scale"]),
        }
        covers = between(after.root, (t for t in tensors if t is not None))
        return Match(after.root, tensors, options, covers)

    def written_scores(self, shape: AttentionShape, element_bytes: int) -> int:
        rows = min(shape.queries, self.query_block or shape.queries)
        return shape.batch * shape.keys * rows * element_bytes

    def details(self, match: Match) -> dict[str, Any]:
        names = ("query", "key", "value")
        convolutions = [name for name, weight in zip(names, match.tensors[1:9:3], strict=True) if weight is not None]
        convolutions += ["out"] if match.tensors[9] is not None else []
        return {**super().details(match), "convolutions": convolutions}

    def replacement(
        self,
        query: Tensor,
        query_weight: Tensor | None,
        query_bias: Tensor | None,
        key: Tensor,
        key_weight: Tensor | None,
        key_bias: Tensor | None,
        value: Tensor,
        value_weight: Tensor | None,
        value_bias: Tensor | None,
        out_weight: Tensor | None,
        out_bias: Tensor | None,
        mask: Tensor | None,
        *,
        heads: int,
        merged: bool,
        is_causal: bool,
        scale: float,
    ) -> Tensor:
        laid_out: dict[int, Tensor] = {}
        operands = (
            (query, query_weight, query_bias),
            (key, key_weight, key_bias),
            (value, value_weight, value_bias),
        )
        for x, _, _ in operands:
            laid_out.setdefault(id(x), channels_first(x))
        q, k, v = (convolved(laid_out[id(x)], weight, bias) for x, weight, bias in operands)
        bias = added_mask(mask, is_causal, q.shape[3], k.shape[3], q.dtype)
        y = split_einsum(q * scale, k, v, heads, bias, self.query_block)
        y = convolved(y, out_weight, out_bias).squeeze(2).transpose(1, 2)
        if merged or (query.ndim == 3 and query_weight is None):
            return y
        return y.reshape(*y.shape[:2], heads, -1).transpose(1, 2)


def channels_first(x: Tensor) -> Tensor:
    """Returns (B, S, C), or (B, H, S, D) with C = H·D, as (B, C, 1, S)."""
    if x.ndim == 4:
        x = x.transpose(1, 2).flatten(2)
    return x.transpose(1, 2).unsqueeze(2)


def convolved(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Returns the 1×1 convolution of (B, C, 1, S) with a linear layer's weight (O, C); x itself if there is none."""
    return x if weight is None else F.conv2d(x, weight.reshape(*weight.shape, 1, 1), bias)


def split_einsum(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None, query_block: int | None
) -> Tensor:
    """Returns attention of operands in the layout of the Neural Engine.

    Args:
        query: (B, H·D, 1, M), scaled already.
        key, value: (B, H·D, 1, N) and (B, H·E, 1, N).
        heads: H.
        mask: added to the scores, broadcast to (B, H, M, N), or None.
        query_block: most queries of one product.

    Returns:
        (B, H·E, 1, M).
    """
    bias = None if mask is None else _upright(mask)
    # The keys are turned once for all heads, and a split is one operator for all of them.
    turned = _split(key.transpose(1, 3), heads, 3)
    per_head = zip(_split(query, heads, 1), turned, _split(value, heads, 1), strict=True)
    outputs = [_head(q, k, v, _of_head(bias, h), query_block) for h, (q, k, v) in enumerate(per_head)]
    return outputs[0] if heads == 1 else torch.cat(outputs, 1)


def _split(x: Tensor, parts: int, axis: int) -> tuple[Tensor, ...]:
    return (x,) if parts == 1 else x.split(x.shape[axis] // parts, axis)


def _upright(mask: Tensor) -> Tensor:
    """Returns a mask (..., M, N) as (B, N, H, M)."""
    return mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape).permute(0, 3, 1, 2)


def _of_head(bias: Tensor | None, head: int) -> Tensor | None:
    return bias if bias is None or bias.shape[2] == 1 else bias.narrow(2, head, 1)


def _head(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, block: int | None) -> Tensor:
    """Returns (B, E, 1, M) for one head: query (B, D, 1, M), key (B, N, 1, D), value (B, E, 1, N)."""
    queries = query.shape[3]
    if block is None or block >= queries:
        return _attend(query, key, value, bias)
    whole = bias is None or bias.shape[3] == 1
    outputs = [
        _attend(part, key, value, bias if whole else bias.narrow(3, start, part.shape[3]))  # type: ignore[union-attr]
        for start, part in zip(range(0, queries, block), query.split(block, 3), strict=True)
    ]
    return torch.cat(outputs, 3)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    s = torch.einsum("bchq,bkhc->bkhq", query, key)
    weights = (s if bias is None else s + bias).softmax(1)
    return torch.einsum("bkhq,bchk->bchq", weights, value)
