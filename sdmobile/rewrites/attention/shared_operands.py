"""What heads of attention share is not copied for each of them: a mask, and the keys and values of grouped queries.

Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints", 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sdmobile.rewrites.operators import arguments, shape_of
from sdmobile.rewrites.pattern import between
from sdmobile.rewrites.rule import Exactness, Match, Rule

if TYPE_CHECKING:
    from torch.fx import Graph, Node

_aten = torch.ops.aten
_SDPA = _aten.scaled_dot_product_attention.default
_RESHAPES = (_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default)
_COPIES = (_aten.contiguous.default, _aten.clone.default)


class AttentionMaskHeads(Rule):
    """Gives attention the mask of a picture once instead of once a head; it is added to all heads alike.

    Google's GPU engine has no operator that repeats.

    Captured:
        m = view(repeat_interleave(a, H, 0))                            (B, H, 1, N), of (B, 1, N)
        y = scaled_dot_product_attention(q, k, v, m)                    (B, H, M, D)

    Rewritten:
        m = unsqueeze(a, 1)                                             (B, 1, 1, N)
        y = scaled_dot_product_attention(q, k, v, m)                    (B, H, M, D)
    """

    name = "attention_mask_heads"
    title = "Attention takes one mask for all heads"
    source = "own lint of PixArt and SANA: BROADCAST_TO is no operator of the GPU engine"
    exactness = Exactness.EXACT
    bound_db = 140.0  # attention may be computed by another kernel

    def matches(self, graph: Graph) -> Iterable[Match]:
        for node in graph.find_nodes(op="call_function", target=_SDPA):
            values = arguments(node)
            mask = _unrepeated(values["attn_mask"], shape_of(values["query"]))
            if mask is not None:
                operands = (values["query"], values["key"], values["value"], mask)
                options = {name: values[name] for name in ("dropout_p", "is_causal", "scale", "enable_gqa")}
                yield Match(node, operands, options, between(node, operands))

    def replacement(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        *,
        dropout_p: float,
        is_causal: bool,
        scale: float | None,
        enable_gqa: bool,
    ) -> Tensor:
        return scaled_dot_product_attention(
            query, key, value, mask.unsqueeze(1), dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )


def _unrepeated(mask: Any, query: tuple[int, ...]) -> Node | None:
    """Returns (B, 1 or M, N) of which a mask is (B, H, 1 or M, N) by repetition."""
    if not isinstance(mask, torch.fx.Node) or mask.target not in _RESHAPES or len(query) != 4:
        return None
    repeat = mask.all_input_nodes[0]
    if repeat.target is not _aten.repeat_interleave.self_int:
        return None
    values = arguments(repeat)
    source = values["self"]
    batch, heads = query[:2]
    once = shape_of(source)
    fits = len(once) == 3 and once[0] == batch and shape_of(mask) == (batch, heads, *once[1:])
    return source if fits and values["dim"] in (0, -3) and values["repeats"] == heads else None


class AttentionGroupedKeys(Rule):
    """Lets queries of several heads that share their keys be rows of one head, so that no key is copied.

    Heads that share keys are neighbours, so that it is a reshape. The mask is repeated for the rows instead.

    Captured:
        k' = reshape(expand(unsqueeze(k, 2)))                           (B, H, N, D), of (B, G, N, D)
        v' = reshape(expand(unsqueeze(v, 2)))                           (B, H, N, D), of (B, G, N, D)
        y = scaled_dot_product_attention(q, k', v', m)                  (B, H, M, D)

    Rewritten:
        q' = reshape(q)                                                 (B, G, H/G·M, D)
        m' = cat([m, …, m], 2)                                          (B, 1, H/G·M, N)
        y = reshape(scaled_dot_product_attention(q', k, v, m'))         (B, H, M, D)
    """

    name = "attention_grouped_keys"
    title = "Heads that share keys become rows of one head: keys and values are not repeated"
    source = "Ainslie et al. 2023, section 2.2; own lint of Qwen3: RESHAPE and BROADCAST_TO of five axes are refused"
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 120.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        for node in graph.find_nodes(op="call_function", target=_SDPA):
            values = arguments(node)
            sources = [_ungrouped(values[name], values["enable_gqa"]) for name in ("key", "value")]
            if None not in sources and len(shape_of(values["query"])) == 4:
                operands = (values["query"], *sources, values["attn_mask"])
                inputs = [operand for operand in operands if operand is not None]
                options = {"is_causal": values["is_causal"], "scale": values["scale"]}
                yield Match(node, operands, options, between(node, inputs))

    def check(self, match: Match) -> str | None:
        heads, groups = match.shape(0)[1], match.shape(1)[1]
        if match.shape(1)[:3] != match.shape(2)[:3] or heads % groups:
            return f"{heads} heads do not share keys {match.shape(1)} and values {match.shape(2)} evenly"
        if match.options["is_causal"]:
            return "it is causal by a flag, which is about the rows of one head"
        if match.tensors[3] is not None and (len(match.shape(3)) != 4 or match.shape(3)[1] != 1):
            return f"the mask has the shape {match.shape(3)}; the rule takes one mask for all heads"
        return None

    def replacement(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, is_causal: bool, scale: float | None
    ) -> Tensor:
        batch, heads, rows, width = query.shape
        shared = heads // key.shape[1]
        grouped = query.reshape(batch, key.shape[1], shared * rows, width)
        if mask is not None and mask.shape[2] > 1:
            mask = torch.cat([mask] * shared, 2)
        y = scaled_dot_product_attention(grouped, key, value, mask, scale=scale)
        return y.reshape(batch, heads, rows, value.shape[-1])

    def details(self, match: Match) -> dict[str, Any]:
        return {"heads": match.shape(0)[1], "groups": match.shape(1)[1]}


def _ungrouped(repeated: Node, enable_gqa: bool) -> Node | None:
    """Returns (B, G, N, D) of which (B, H, N, D) is made by repeating heads, or may be by the operator itself."""
    if enable_gqa:
        return repeated
    values = arguments(repeated) if repeated.op == "call_function" else {}
    if repeated.target is _aten.repeat_interleave.self_int and values["dim"] in (1, -3):
        return values["self"]
    return grouped_source(repeated)


def grouped_source(repeated: Node) -> Node | None:
    """Returns (B, G, …) of which (B, H, …) is made with an axis for the copies, behind that of the groups."""
    expand = repeated.all_input_nodes[0] if repeated.target in _RESHAPES else None
    while expand is not None and expand.target in _COPIES:
        expand = expand.all_input_nodes[0]
    if expand is None or expand.target is not _aten.expand.default:
        return None
    source = expand.all_input_nodes[0]
    if source.target is not _aten.unsqueeze.default or source.args[1] != 2:
        return None
    once = shape_of(source.all_input_nodes[0])
    copies = shape_of(expand)
    whole = (once[0], once[1] * copies[2], *once[2:])
    return source.all_input_nodes[0] if (*copies[:2], *copies[3:]) == once and shape_of(repeated) == whole else None
