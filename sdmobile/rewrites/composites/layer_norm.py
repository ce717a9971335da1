"""LayerNorm as the composite that ML Drift runs as one kernel.

y = (x − mean) / sqrt(var + ε) · γ + β        mean, var over the last axis

Ba, Kiros and Hinton, "Layer Normalization", 2016, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node

from sdmobile.device_profiles.runtime_rules.tflite_operators import GROUP_NORM
from sdmobile.rewrites.composites.builder import Composite, load_marks, renew_marks
from sdmobile.rewrites.layer_norm import LayerNormRule, Weight, layer_norm_plain


class LayerNormComposite(LayerNormRule):
    """`odml.group_norm` without reduction axes; the decomposition is the plain form.

    In the picture another rule's name stands for what that rule writes.

    Captured:
        y = layer_norm(x, [C], γ, β, ε)                                 (N, S, C)

    Rewritten:
        i = mark_tensor(x), also of γ and β                             (N, S, C), the composite's operands
        y = mark_tensor(layer_norm_plain(i, γ, β))                      (N, S, C)
    """

    name = "layer_norm_composite"
    title = "LayerNorm as one composite node with a plain decomposition"
    source = "google-ai-edge/LiteRT@f67457790c, ml_drift_delegate/tflite/model_builder.cc, odml.group_norm"
    composite = True

    def prepare(self) -> None:
        load_marks()

    def renew(self, added: Sequence[Node]) -> None:
        renew_marks(added)

    def normalised(self, x: Tensor, weight: Weight, bias: Weight, eps: float) -> Tensor:
        return layer_norm_composite(x, weight, bias, eps)


def layer_norm_composite(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """LayerNorm over the last axis, between the marks of a composite.

    Args:
        x: (..., C), of rank 2 to 4.
        weight, bias: γ and β, (C,); the composite needs both, so that absent ones become constants.
        eps: ε.
    """
    c = x.shape[-1]
    marks = Composite(GROUP_NORM, {"num_groups": 1, "epsilon": eps, "channel_axis": x.ndim - 1})
    weight = torch.ones(c, dtype=x.dtype) if weight is None else weight
    bias = torch.zeros(c, dtype=x.dtype) if bias is None else bias
    x, weight, bias = marks.enter(x, weight, bias)
    return marks.leave(layer_norm_plain(x, weight, bias, eps))
