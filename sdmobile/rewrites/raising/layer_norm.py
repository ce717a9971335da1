"""Raises LayerNorm written out in primitive operations.

    y = (x − mean) / sqrt(var + ε) · γ + β        mean, biased var over the trailing axes

Ba, Kiros and Hinton, "Layer Normalization", 2016, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdmobile.rewrites.raising.native import native_norms
from sdmobile.rewrites.raising.norm import LAYER, norms, refusal
from sdmobile.rewrites.rule import UP_TO_ROUNDING, Match, Rule

if TYPE_CHECKING:
    from torch.fx import Graph


class RaiseLayerNorm(Rule):
    """Writes `aten.layer_norm` for what computes it, and for the `aten.native_layer_norm` of a decomposition."""

    name = "raise_layer_norm"
    title = "LayerNorm written out in primitive operations becomes one operator"
    source = "Ba, Kiros and Hinton 2016, section 3.1; each site is compared with it in float64 on random operands"
    exactness = UP_TO_ROUNDING
    bound_db = 100.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        return [*native_norms(graph, LAYER), *norms(graph, LAYER)]

    def check(self, match: Match) -> str | None:
        return refusal(match)

    def replacement(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, *, normalized_shape: list[int], eps: float
    ) -> Tensor:
        shape = tuple(normalized_shape)
        gamma, beta = (p if p is None or p.shape == shape else p.reshape(shape) for p in (weight, bias))
        return torch.layer_norm(x, shape, gamma, beta, eps)
