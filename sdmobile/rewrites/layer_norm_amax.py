"""LayerNorm for float16 arithmetic: deviations scaled by their largest magnitude.

y = (x − mean) / sqrt(var + ε) · γ + β        mean, var over the last axis

Ba, Kiros and Hinton, "Layer Normalization", 2016, section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdmobile.rewrites.layer_norm import LayerNormRule


def layer_norm_amax(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """LayerNorm of deviations scaled by their largest magnitude.

        d = x − mean        a = max|d| + 1e-4        e = d / a        y = e · γ · rsqrt(mean(e²) + (√ε/a)²) + β

    Args:
        x: (..., C).
        weight, bias: γ and β, (C,).
        eps: ε.
    """
    d = x - x.mean(-1, keepdim=True)
    # A constant row would give 0/0; 1e-4 is a normal float16 number and below any deviation that ε lets through.
    a = d.abs().amax(-1, keepdim=True) + 1e-4
    e = d / a
    floor = eps**0.5 / a  # squared here, not a: a² underflows in float16 where √ε/a does not
    r = torch.rsqrt((e * e).mean(-1, keepdim=True) + floor * floor)
    y = (e if weight is None else e * weight) * r  # γ first: see layer_norm_plain
    return y if bias is None else y + bias


class LayerNormAmax(LayerNormRule):
    """Fourteen operators on the input's own shape, none of which leaves float16's range.

    The plain form squares deviations: in float16 they overflow from 256, and below 1e-3 they lose their digits.
    """

    name = "layer_norm_amax"
    title = "LayerNorm in plain operators, scaled by the largest deviation"
    source = "own float16 rounding after every operator, standard deviation 1000: 80 dB, the plain form -6 dB"

    def replacement(
        self, input: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float, **_: object
    ) -> Tensor:
        return layer_norm_amax(input, weight, bias, eps)
