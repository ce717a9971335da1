"""Attention as the one operator that Core ML has from iOS 18 on.

coremltools 9 writes it only where the graph gives no scale (`can_use_fused_sdpa` in its PyTorch frontend): the operator
itself always divides by √D. Transformers passes the scale, even where it is 1/√D, so its attention comes out as
product, softmax, product. The mask is not the cause: the operator takes boolean and added masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.device_profiles.runtime_rules.attention_shape import AttentionShape
from sdmobile.rewrites.attention.arithmetic import default_scale
from sdmobile.rewrites.attention.base import AttentionForm


@dataclass(frozen=True)
class AttentionSdpa(AttentionForm):
    """No scale argument: the default scale is left out, another one goes to the query. A causal mask is a constant."""

    name = "attention_sdpa"
    title = "Attention as one operator without a scale, as Core ML takes it from iOS 18"
    source = "coremltools 9.0, converters/mil/frontend/torch/ops.py, scaled_dot_product_attention"
    form: ClassVar[str] = "sdpa"

    def written_scores(self, shape: AttentionShape, element_bytes: int) -> int:
        return 0

    def replacement(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None,
        *,
        is_causal: bool,
        scale: float | None,
        **_: object,
    ) -> Tensor:
        factor = default_scale(query, scale) * math.sqrt(query.shape[-1])
        if not math.isclose(factor, 1.0, rel_tol=1e-6):
            query = query * factor
        if is_causal:
            attn_mask = torch.tensor(np.tri(query.shape[-2], key.shape[-2], dtype=bool))
        return F.scaled_dot_product_attention(query, key, value, attn_mask)
