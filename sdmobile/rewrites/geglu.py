"""GEGLU from two projections instead of the halves of one.

y = a · gelu(b)        [a, b] = x Wᵀ + c

Shazeer, "GLU Variants Improve Transformer", 2020, equation 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from sdmobile.rewrites.pattern import Bindings, Call, Const, Either, Item, Var, between, match
from sdmobile.rewrites.rule import Exactness, Match, Rule

if TYPE_CHECKING:
    from torch.fx import Graph, Node

_aten = torch.ops.aten
_PROJECTION = Call(_aten.linear.default, Var("x"), Var("weight"), Either(Var("bias"), Const()), name="projection")
_HALVES = Call(_aten.chunk.default, _PROJECTION, 2, Const("axis"), name="halves")
_GATE = Call(_aten.gelu.default, Item(_HALVES, 1), approximate=Const("approximate"))
_GEGLU = Call(_aten.mul.Tensor, Item(_HALVES, 0), _GATE)


class GegluSplit(Rule):
    """Splits the projection's weight, which is constant, instead of its result, which a runtime would have to copy.

    The linear layer of both halves becomes one of each half: as many multiplications, no SLICE. The package then holds
    the checkpoint's weight in two pieces.

    Captured:
        a, b = chunk(linear(x, W, c), 2, -1)                            (N, S, F) each, of W (2·F, C)
        y = mul(a, gelu(b))                                             (N, S, F)

    Rewritten:
        y = mul(linear(x, W₁, c₁), gelu(linear(x, W₂, c₂)))             (N, S, F), of Wᵢ (F, C)
    """

    name = "geglu_split"
    title = "GEGLU from two projections: no slices of activations"
    source = "Shazeer 2020, equation 5; own count of LiteRT operators: two SLICE become one FULLY_CONNECTED"
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 110.0
    folds = True

    def matches(self, graph: Graph) -> Iterable[Match]:
        for node in graph.find_nodes(op="call_function", target=_aten.mul.Tensor):
            bindings = match(_GEGLU, node)
            if bindings is not None:
                yield _match(node, bindings)

    def check(self, match: Match) -> str | None:
        rank, axis = len(match.shape()), match.options["axis"]
        if axis not in (-1, rank - 1):
            return f"the projection is split along axis {axis}, not the last one"
        rows = match.shape(1)[0]
        return None if rows % 2 == 0 else f"the projection has {rows} outputs, which do not split into halves"

    def replacement(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, axis: int, approximate: str
    ) -> Tensor:
        half = weight.shape[0] // 2
        value_bias, gate_bias = (None, None) if bias is None else (bias[:half], bias[half:])
        return linear(x, weight[:half], value_bias) * gelu(linear(x, weight[half:], gate_bias), approximate=approximate)

    def details(self, match: Match) -> dict[str, Any]:
        positions = torch.Size(match.shape()[:-1]).numel()
        return {"elements_not_copied": positions * match.shape(1)[0]}


def _match(node: Node, bindings: Bindings) -> Match:
    tensors = (bindings["x"], bindings["weight"], bindings.get("bias"))
    options = {"axis": bindings["axis"], "approximate": bindings["approximate"]}
    return Match(node, tensors, options, between(node, [bindings["x"]]))
