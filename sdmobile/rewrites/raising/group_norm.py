"""Raises GroupNorm written out in primitive operations.

    y = (x − mean) / sqrt(var + ε) · γ + β        mean, biased var over the C/G channels of a group and all positions

Wu and He, "Group Normalization", 2018, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdmobile.rewrites.raising.native import native_norms
from sdmobile.rewrites.raising.norm import GROUP, norms, refusal
from sdmobile.rewrites.rule import UP_TO_ROUNDING, Match, Rule

if TYPE_CHECKING:
    from torch.fx import Graph


class RaiseGroupNorm(Rule):
    """Writes `aten.group_norm` for what computes it: groups by reshape, mean, variance, root, affine step.

    Also for `aten.native_group_norm`, which decomposition by torch.export leaves, and for an instance norm of a
    reshaped input.
    """

    name = "raise_group_norm"
    title = "GroupNorm written out in primitive operations becomes one operator"
    source = "Wu and He 2018, section 3.1; each site is compared with it in float64 on random operands"
    exactness = UP_TO_ROUNDING
    bound_db = 100.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        return [*native_norms(graph, GROUP), *norms(graph, GROUP)]

    def check(self, match: Match) -> str | None:
        return refusal(match)

    def replacement(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, *, num_groups: int, eps: float
    ) -> Tensor:
        gamma, beta = (p if p is None or p.ndim == 1 else p.reshape(-1) for p in (weight, bias))
        return torch.group_norm(x, num_groups, gamma, beta, eps)
