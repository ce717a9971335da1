"""RMSNorm as the composite that ML Drift runs as one kernel.

y = x · rsqrt(mean(x²) + ε) · γ        mean over the last axis

Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node

from sdmobile.device_profiles.runtime_rules.tflite_operators import RMS_NORM
from sdmobile.rewrites.composites.builder import Composite, load_marks, renew_marks
from sdmobile.rewrites.rms_norm import RmsNormRule, Weight, rms_norm_amax


class RmsNormComposite(RmsNormRule):
    """`odml.rms_norm`; the decomposition is the plain form that float16 cannot hurt.

    In the picture another rule's name stands for what that rule writes.

    Captured:
        y = rms_norm(x, [C], γ, ε)                                      (N, S, C)

    Rewritten:
        i = mark_tensor(x), also of γ                                   (N, S, C), the composite's operands
        y = mark_tensor(rms_norm_amax(i, γ))                            (N, S, C)
    """

    name = "rms_norm_composite"
    title = "RMSNorm as one composite node with a plain decomposition"
    source = "google-ai-edge/LiteRT@f67457790c, ml_drift_delegate/tflite/model_builder.cc, odml.rms_norm"
    composite = True

    def prepare(self) -> None:
        load_marks()

    def renew(self, added: Sequence[Node]) -> None:
        renew_marks(added)

    def normalised(self, x: Tensor, weight: Weight, eps: float) -> Tensor:
        return rms_norm_composite(x, weight, eps)


def rms_norm_composite(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """RMSNorm over the last axis, between the marks of a composite.

    Args:
        x: (..., C), of rank 2 to 4.
        weight: γ, (C,); the composite needs it, so that an absent one becomes a constant.
        eps: ε.
    """
    marks = Composite(RMS_NORM, {"epsilon": eps})
    weight = torch.ones(x.shape[-1], dtype=x.dtype) if weight is None else weight
    x, weight = marks.enter(x, weight)
    return marks.leave(rms_norm_amax(x, weight, eps))
