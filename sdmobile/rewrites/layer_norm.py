"""LayerNorm in few plain operators.

y = (x − mean) / sqrt(var + ε) · γ + β        mean, var over the last axis

Ba, Kiros and Hinton, "Layer Normalization", 2016, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdmobile.rewrites.rule import UP_TO_ROUNDING, Match, OperatorRule


class LayerNormRule(OperatorRule):
    """Matches `aten.layer_norm`; what the forms of it share."""

    operator = torch.ops.aten.layer_norm.default
    exactness = UP_TO_ROUNDING
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


class LayerNormPlain(LayerNormRule):
    """Nine operators on the input's own shape; LiteRT's converter adds one small reshape before the root.

    By itself it goes through a batch normalisation of (1, positions, C): fifteen operators, five of them reshapes, and
    two products with the mean, which cost precision where the mean is larger than the deviations.
    """

    name = "layer_norm_plain"
    title = "LayerNorm in nine plain operators on the input's own shape"
    source = "own count of LiteRT operators: 10 where the converter's lowering has 15"

    def replacement(
        self, input: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float, **_: object
    ) -> Tensor:
        return layer_norm_plain(input, weight, bias, eps)


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
