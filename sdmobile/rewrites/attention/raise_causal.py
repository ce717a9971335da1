"""A mask that is the lower triangle, whatever computes it, becomes the attention's causal flag.

mask[m, n] = true (or 0) where n ≤ m, false (or −10⁴ and less) elsewhere  ──▶  is_causal
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.nn import functional as F

from sdmobile.rewrites.operators import arguments, evaluate, shape_of
from sdmobile.rewrites.rule import Exactness, Match, Rule

_LARGEST = 4096 * 4096


class RaiseCausalMask(Rule):
    """Gives an attention the causal flag in the place of a mask that is the lower triangle and depends on no input.

    Transformers compute the triangle of their text encoders anew in every call, from ranges of positions. An attention
    that is known to be causal needs no mask among its operands: each form brings its own constant.

    Captured:
        p = arange(N)                                                   (N,)
        m = le(unsqueeze(p, 0), unsqueeze(p, 1))                        (N, N), true on and below the diagonal
        y = scaled_dot_product_attention(q, k, v, m)                    (B, H, N, E)

    Rewritten:
        y = scaled_dot_product_attention(q, k, v, is_causal=True)       (B, H, N, E)
    """

    name = "raise_causal_mask"
    title = "A computed triangular mask as the causal flag of the attention"
    source = "definition of is_causal in PyTorch's scaled_dot_product_attention"
    exactness = Exactness.EXACT
    bound_db = 100.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        causal, triangles = [], dict[Node, bool]()
        for node in graph.find_nodes(op="call_function", target=torch.ops.aten.scaled_dot_product_attention.default):
            values = arguments(node)
            mask = values["attn_mask"]
            if mask is None or values["is_causal"]:
                continue
            if mask not in triangles:
                triangles[mask] = is_triangle(mask)
            if triangles[mask]:
                options = {name: values[name] for name in ("dropout_p", "scale", "enable_gqa")}
                causal.append(Match(node, (values["query"], values["key"], values["value"]), options, (node,)))
        return causal

    def replacement(
        self, query: Tensor, key: Tensor, value: Tensor, *, dropout_p: float, scale: float | None, enable_gqa: bool
    ) -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, None, dropout_p, True, scale=scale, enable_gqa=enable_gqa
        )


def is_triangle(mask: Node) -> bool:
    """Returns whether a mask depends on no input and lets exactly the keys up to the query's position take part."""
    if len(shape_of(mask)) < 2 or mask.meta["val"].numel() > _LARGEST or not _is_constant(mask, {}):
        return False
    value = evaluate(mask, {})
    allowed = torch.ones(shape_of(mask)[-2:], dtype=torch.bool).tril()
    if value.dtype == torch.bool:
        return bool((value == allowed).all())
    return bool(((value == 0) | ~allowed).all() and ((value <= -1e4) | allowed).all())


def _is_constant(node: Node, known: dict[Node, bool]) -> bool:
    """Returns whether a node's value depends on no placeholder."""
    if node not in known:
        known[node] = node.op == "call_function" and all(_is_constant(inner, known) for inner in node.all_input_nodes)
    return known[node]
