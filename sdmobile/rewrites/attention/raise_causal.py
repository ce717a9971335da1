"""A mask that is the lower triangle, whatever computes it, becomes the attention's causal flag.

mask[m, n] = true (or 0) where n ≤ m, false (or −10⁴ and less) elsewhere  ──▶  is_causal
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.nn import functional as F

from sdmobile.rewrites.operators import arguments, shape_of
from sdmobile.rewrites.rule import EXACT, Match, Rule

_LARGEST = 4096 * 4096


class RaiseCausalMask(Rule):
    """Transformers compute the triangle of their text encoders anew in every call, from ranges of positions.

    Known to be causal, an attention needs no mask among its operands: each form brings its own constant.
    """

    name = "raise_causal_mask"
    title = "A computed triangular mask as the causal flag of the attention"
    source = "definition of is_causal in PyTorch's scaled_dot_product_attention"
    exactness = EXACT
    bound_db = 100.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        found, triangles = [], dict[Node, bool]()
        for node in graph.find_nodes(op="call_function", target=torch.ops.aten.scaled_dot_product_attention.default):
            given = arguments(node)
            mask = given["attn_mask"]
            if mask is None or given["is_causal"]:
                continue
            if mask not in triangles:
                triangles[mask] = is_triangle(mask)
            if triangles[mask]:
                options = {"scale": given["scale"], "enable_gqa": given["enable_gqa"]}
                found.append(Match(node, (given["query"], given["key"], given["value"]), options, (node,)))
        return found

    def replacement(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None, enable_gqa: bool
    ) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=enable_gqa)


def is_triangle(mask: Node) -> bool:
    """Returns whether a mask depends on no input and lets exactly the keys up to the query's position take part."""
    if len(shape_of(mask)) < 2 or mask.meta["val"].numel() > _LARGEST or not _is_constant(mask, {}):
        return False
    value = _evaluate(mask, {})
    allowed = torch.ones(shape_of(mask)[-2:], dtype=torch.bool).tril()
    if value.dtype == torch.bool:
        return bool((value == allowed).all())
    return bool(((value == 0) | ~allowed).all() and ((value <= -1e4) | allowed).all())


def _is_constant(node: Node, known: dict[Node, bool]) -> bool:
    """Returns whether a node's value depends on no placeholder."""
    if node not in known:
        known[node] = node.op == "call_function" and all(_is_constant(inner, known) for inner in node.all_input_nodes)
    return known[node]


def _evaluate(node: Node, known: dict[Node, Tensor]) -> Tensor:
    if node not in known:
        args, kwargs = map_arg((node.args, node.kwargs), lambda inner: _evaluate(inner, known))
        known[node] = cast(Callable[..., Tensor], node.target)(*args, **kwargs)
    return known[node]
