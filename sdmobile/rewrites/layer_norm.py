"""LayerNorm in few plain operators.

y = (x − mean) / sqrt(var + ε) · γ + β        mean, var over the last axis

Ba, Kiros and Hinton, "Layer Normalization", 2016, section 3.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from sdmobile.rewrites.rule import Exactness, Match, OperatorRule

Weight = Tensor | None


class LayerNormRule(OperatorRule):
    """Matches `aten.layer_norm`; what the forms of it share."""

    operator = torch.ops.aten.layer_norm.default
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 100.0

    def check(self, match: Match) -> str | None:
        shape, axes = match.shape(), tuple(match.options["normalized_shape"])
        if any(not isinstance(size, int) for size in shape):
            return f"the shape {shape} is not static"
        if axes != shape[-1:]:
            return f"it normalises over {axes} of {shape}; the rule is for the last axis"
        if not 2 <= len(shape) <= 4:
            return f"the input has rank {len(shape)}; the rule is for rank 2 to 4"
        return None

    @abstractmethod
    def normalised(self, x: Tensor, weight: Weight, bias: Weight, eps: float) -> Tensor:
        """Returns y, (..., C), computed the form's way."""

    def replacement(
        self,
        input: Tensor,
        weight: Weight,
        bias: Weight,
        *,
        normalized_shape: list[int],
        eps: float,
        cudnn_enable: bool,
    ) -> Tensor:
        return self.normalised(input, weight, bias, eps)


class LayerNormPlain(LayerNormRule):
    """Nine operators on the input's own shape; LiteRT's converter adds one small reshape before the root.

    By itself it goes through a batch normalisation of (1, positions, C): fifteen operators, five of them reshapes, and
    two products with the mean, which cost precision where the mean is larger than the deviations.

    Captured:
        y = layer_norm(x, [C], γ, β, ε)                                 (N, S, C)

    Rewritten:
        d = sub(x, mean(x, -1))                                         (N, S, C)
        r = rsqrt(add(mean(mul(d, d), -1), ε))                          (N, S, 1)
        y = add(mul(mul(d, γ), r), β)                                   (N, S, C)
    """

    name = "layer_norm_plain"
    title = "LayerNorm in nine plain operators on the input's own shape"
    source = "own count of LiteRT operators: 10 where the converter's lowering has 15"

    def normalised(self, x: Tensor, weight: Weight, bias: Weight, eps: float) -> Tensor:
        return layer_norm_plain(x, weight, bias, eps)


def layer_norm_plain(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the last axis.

    Args:
        x: (..., C).
        weight, bias: γ and β, (C,).
        eps: ε.
    """
    d = x - x.mean(-1, keepdim=True)
    r = torch.rsqrt((d * d).mean(-1, keepdim=True) + eps)
    # γ before the root's reciprocal: LiteRT's converter multiplies a γ that comes last into the weights of the linear
    # layers behind it. Those are no float16 numbers any more (text encoder of shapes-64: 84 dB instead of 106 dB),
    # and no longer the checkpoint's.
    y = (d if weight is None else d * weight) * r
    return y if bias is None else y + bias


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
    """Sixteen ATen operators on the input's own shape, none of which leaves float16's range.

    The plain form squares deviations: in float16 they overflow from 256, and below 1e-3 they lose their digits.

    Captured:
        y = layer_norm(x, [C], γ, β, ε)                                 (N, S, C)

    Rewritten:
        d = sub(x, mean(x, -1))                                         (N, S, C)
        a = add(amax(abs(d), -1), 1e-4)                                 (N, S, 1)
        e = div(d, a)                                                   (N, S, C)
        f = mul(reciprocal(a), √ε)                                      (N, S, 1)
        r = rsqrt(add(mean(mul(e, e), -1), mul(f, f)))                  (N, S, 1)
        y = add(mul(mul(e, γ), r), β)                                   (N, S, C)
    """

    name = "layer_norm_amax"
    title = "LayerNorm in plain operators, scaled by the largest deviation"
    source = "own float16 rounding after every operator, standard deviation 1000: 80 dB, the plain form -6 dB"

    def normalised(self, x: Tensor, weight: Weight, bias: Weight, eps: float) -> Tensor:
        return layer_norm_amax(x, weight, bias, eps)
