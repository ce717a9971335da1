"""Raises SiLU written out in primitive operations.

    silu(x) = x · σ(x) = x / (1 + e^−x)

Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units", 2017, equation 8.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import silu

from sdmobile.rewrites.raising.activation import activations
from sdmobile.rewrites.rule import UP_TO_ROUNDING, Match, Rule

if TYPE_CHECKING:
    from torch.fx import Graph

_TELLING = (torch.ops.aten.sigmoid.default, torch.ops.aten.exp.default)


class RaiseSilu(Rule):
    """Writes `aten.silu` for x times its sigmoid, however the sigmoid is written. σ(1.702·x)·x is another function."""

    name = "raise_silu"
    title = "SiLU written out in primitive operations becomes one operator"
    source = "Elfwing, Uchibe and Doya 2017, equation 8; each site is compared with it in float64"
    exactness = UP_TO_ROUNDING
    bound_db = 100.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        return list(activations(graph, _TELLING, silu))

    def replacement(self, x: Tensor) -> Tensor:
        return silu(x)
