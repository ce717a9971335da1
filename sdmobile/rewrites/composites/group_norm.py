"""GroupNorm as the composite that ML Drift runs as one kernel, which keeps its statistics out of float16 tensors.

y = (x − mean) / sqrt(var + ε) · γ + β        mean, var over the C/G channels of a group and all positions
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node

from sdmobile.device_profiles.runtime_rules.tflite_operators import GROUP_NORM
from sdmobile.rewrites.composites.builder import Composite, load_marks, renew_marks
from sdmobile.rewrites.group_norm import GroupNormRule, Weight, group_norm_nhwc_amax

_CHANNELS = 3  # the last axis of (N, H, W, C)


class GroupNormComposite(GroupNormRule):
    """`odml.group_norm` on (N, H, W, C), the decomposition being the plain form that float16 cannot hurt.

    The engine tells the operation from LayerNorm, which has the same name, by the reduction axes: [3] is GroupNorm. In
    the picture another rule's name stands for what that rule writes.

    Captured:
        y = group_norm(x, G, γ, β, ε)                                   (N, C, H, W)

    Rewritten:
        i = mark_tensor(movedim(x, 1, -1)), also of γ and β             (N, H, W, C), the composite's operands
        n = movedim(group_norm_nhwc_amax(movedim(i, -1, 1), γ, β), 1, -1)        (N, H, W, C)
        y = movedim(reshape(mark_tensor(n)), -1, 1)                     (N, C, H, W)
    """

    name = "group_norm_composite"
    title = "GroupNorm as one composite node with a plain decomposition"
    source = "google-ai-edge/LiteRT@f67457790c, ml_drift_delegate/tflite/model_builder.cc, odml.group_norm"
    composite = True

    def prepare(self) -> None:
        load_marks()

    def renew(self, added: Sequence[Node]) -> None:
        renew_marks(added)

    def normalised(self, x: Tensor, num_groups: int, weight: Weight, bias: Weight, eps: float) -> Tensor:
        return group_norm_composite(x, num_groups, weight, bias, eps)


def group_norm_composite(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """GroupNorm between the marks of a composite.

    Args:
        x: (N, C, H, W) or (N, C, L).
        num_groups: G.
        weight, bias: γ and β, (C,); the composite needs both, so that absent ones become constants.
        eps: ε.
    """
    n, c = x.shape[0], x.shape[1]
    attributes = {"num_groups": num_groups, "epsilon": eps, "reduction_axes": [_CHANNELS], "channel_axis": _CHANNELS}
    marks = Composite(GROUP_NORM, attributes)
    weight = torch.ones(c, dtype=x.dtype) if weight is None else weight
    bias = torch.zeros(c, dtype=x.dtype) if bias is None else bias
    last = x.movedim(1, -1)
    image = last if x.ndim == 4 else last.reshape(n, 1, -1, c)  # the kernel takes rank 4 only
    image, weight, bias = marks.enter(image, weight, bias)
    y = group_norm_nhwc_amax(image.movedim(-1, 1), num_groups, weight, bias, eps).movedim(1, -1)
    return marks.leave(y).reshape(last.shape).movedim(-1, 1)
