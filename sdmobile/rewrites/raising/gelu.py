"""Raises GELU written out in primitive operations.

    gelu(x) = x/2 · (1 + erf(x/√2))        or, approximately,        x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))

Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import gelu

from sdmobile.rewrites.raising.activation import activations
from sdmobile.rewrites.rule import UP_TO_ROUNDING, Match, Rule

if TYPE_CHECKING:
    from torch.fx import Graph

# Which function of PyTorch a spelling is, by the function that tells it.
_SPELLINGS = {"none": torch.ops.aten.erf.default, "tanh": torch.ops.aten.tanh.default}


class RaiseGelu(Rule):
    """Writes `aten.gelu` for either equation; the quick GELU x·σ(1.702·x) of OpenAI's CLIP is neither."""

    name = "raise_gelu"
    title = "GELU written out in primitive operations becomes one operator"
    source = "Hendrycks and Gimpel 2016, section 2; each site is compared with it in float64"
    exactness = UP_TO_ROUNDING
    bound_db = 100.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        return [
            replace(match, options={"approximate": approximate})
            for approximate, telling in _SPELLINGS.items()
            for match in activations(graph, (telling,), partial(gelu, approximate=approximate))
        ]

    def replacement(self, x: Tensor, *, approximate: str) -> Tensor:
        return gelu(x, approximate=approximate)
