"""GELU by functions that are near it: they change what the model computes.

gelu(x) = x/2 · (1 + erf(x/√2))

Both targets run the exact function as one operator (LiteRT GELU, Core ML gelu in mode EXACT), so a device needs neither
rule for its operators' sake; they are for runtimes that have no error function, and for measuring what it costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdmobile.rewrites.rule import Exactness, Match, OperatorRule


class _GeluRule(OperatorRule):
    """Matches `aten.gelu` in its exact form."""

    operator = torch.ops.aten.gelu.default
    exactness = Exactness.CHANGES_FUNCTION
    bound_db = -math.inf

    def check(self, match: Match) -> str | None:
        approximate = match.options["approximate"]
        return None if approximate == "none" else f"it is approximate already: {approximate}"


class GeluTanh(_GeluRule):
    """gelu(x) ≈ x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))), 4.7e-4 away at most.

    It is still one operator on both targets. The cube leaves float16 from |x| = 40, where it no longer matters: tanh is
    1.

    Captured:
        y = gelu(x, "none")                                             (N, S, C)

    Rewritten:
        y = gelu(x, "tanh")                                             (N, S, C)
    """

    name = "gelu_tanh"
    title = "GELU with a hyperbolic tangent instead of the error function (approximate)"
    source = "Hendrycks and Gimpel 2016, section 2"

    def replacement(self, x: Tensor, *, approximate: str) -> Tensor:
        return torch.nn.functional.gelu(x, approximate="tanh")


@dataclass(frozen=True)
class GeluSwish(_GeluRule):
    """gelu(x) ≈ x · σ(β·x), 0.0203 away at most with β = 1.702; SiLU, β = 1, is 0.193 away.

    MobileDiffusion trains with swish in the place of GELU, since the cube of the tanh form is unstable in float16. A
    checkpoint that was trained so has SiLU in its graph and needs no rule; this one is for a checkpoint that was not,
    and takes the published β.

    Captured:
        y = gelu(x, "none")                                             (N, S, C)

    Rewritten:
        y = mul(x, sigmoid(mul(x, β)))                                  (N, S, C)

    Args:
        beta: β.
    """

    beta: float = 1.702

    name = "gelu_swish"
    title = "GELU as x · σ(1.702 x) (approximate)"
    source = "Hendrycks and Gimpel 2016, section 2, for β; MobileDiffusion, arXiv 2311.16567, section 3, for swish"

    def replacement(self, x: Tensor, *, approximate: str) -> Tensor:
        return x * torch.sigmoid(x * self.beta)
