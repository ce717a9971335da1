"""Factors that float16 cannot hold, written as two that it can.

x · c = (x · a) · b        a, b float16 numbers, a · b = c up to 2⁻¹⁸

A Core ML package in float16 stores every constant as float16: the factor 1.702 of a quick GELU becomes 1.7021484, the
scale 1/√32 of an attention is off by 1.1e-4. Weights are rounded too, but where they are float16 numbers already, as
in most published checkpoints, these few scalars are what parity in float32 loses.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdmobile.rewrites.operators import arguments
from sdmobile.rewrites.rule import Exactness, Match, Rule

if TYPE_CHECKING:
    from torch.fx import Graph, Node

_aten = torch.ops.aten
_PRODUCTS = (_aten.mul.Tensor, _aten.mul.Scalar)
_QUOTIENTS = (_aten.div.Tensor, _aten.div.Scalar)
_SDPA = _aten.scaled_dot_product_attention.default
_BITS = 2048  # significands of float16 lie in [1024, 2048)


@cache
def float16_factors(c: float) -> tuple[float, float]:
    """Returns two float16 numbers a in [1, 2) and b with a · b as near to c as possible; a is 1 if float16 holds c.

    Args:
        c: a finite number other than 0, 2⁻¹⁴ to 2¹⁵ in magnitude.
    """
    if float(torch.tensor(c).half()) == c:
        return 1.0, c
    a = torch.arange(_BITS // 2, _BITS, dtype=torch.float64) * 2 / _BITS
    b = (c / a).half().double()
    best = int((a * b / c - 1).abs().argmin())
    return float(a[best]), float(b[best])


def factor_of(node: Node) -> float | None:
    """Returns the constant that an operator multiplies a tensor by, None if it does something else."""
    if node.target not in (*_PRODUCTS, *_QUOTIENTS, _SDPA):
        return None
    values = arguments(node)
    if node.target is _SDPA:
        return shape_scale(values["query"]) if values["scale"] is None else float(values["scale"])
    constant = values["other"]
    if isinstance(constant, bool) or not isinstance(constant, int | float) or constant == 0:
        return None
    return float(constant) if node.target in _PRODUCTS else 1.0 / float(constant)


def shape_scale(query: Node) -> float:
    """Returns 1/√D, the scale of an attention that names none."""
    return query.meta["val"].shape[-1] ** -0.5


class SplitConstants(Rule):
    """Multiplies by two float16 numbers wherever the graph multiplies by one number that is none.

    It runs last: it looks for the factors that the other rules leave. A quotient counts as a product with the
    reciprocal, and of an attention one factor goes to the query, the other one is its scale.

    Captured:
        y = mul(x, c)                                                   (N, S, C)

    Rewritten:
        y = mul(mul(x, a), b)                                           (N, S, C), a · b = c
    """

    name = "split_constants"
    title = "Factors that float16 cannot hold become a product of two that it can"
    source = "own bisection of the text encoder of shapes-64: 92 dB with its scalars in float16"
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 90.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        for node in graph.nodes:
            factor = factor_of(node) if node.op == "call_function" else None
            if factor is None or not 2.0**-14 <= abs(factor) <= 2.0**15 or float16_factors(factor)[0] == 1.0:
                continue
            value = node.meta["val"]
            if isinstance(value, Tensor) and value.is_floating_point():
                yield _match(node, factor)

    def replacement(
        self,
        x: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        factor: float,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        enable_gqa: bool = False,
    ) -> Tensor:
        a, b = float16_factors(factor)
        if key is None or value is None:
            return x * a * b
        return torch.nn.functional.scaled_dot_product_attention(
            x * a, key, value, mask, dropout_p, is_causal, scale=b, enable_gqa=enable_gqa
        )


def _match(node: Node, factor: float) -> Match:
    values = arguments(node)
    if node.target is _SDPA:
        tensors = tuple(values[name] for name in ("query", "key", "value", "attn_mask"))
        kept = {name: values[name] for name in ("dropout_p", "is_causal", "enable_gqa")}
        return Match(node, tensors, {"factor": factor, **kept}, (node,))
    return Match(node, (values["self"],), {"factor": factor}, (node,))
