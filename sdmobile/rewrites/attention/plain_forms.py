"""Forms of attention that replace the operator alone: four plain operators, a softmax after the product, one operator.

out = softmax(scale · q kᵀ + mask) v
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
from sdmobile.rewrites.attention.arithmetic import added_mask, default_scale, partial_softmax, plain
from sdmobile.rewrites.attention.base import AttentionForm


@dataclass(frozen=True)
class AttentionPlain(AttentionForm):
    """Product, softmax, product on (B, H, S, D), for runtimes that know no attention operator.

    The converter's own lowering of the operator reshapes every operand to rank 3 and back.
    """

    name = "attention_plain"
    title = "Attention as product, softmax, product of rank 4"
    source = "own count of LiteRT operators: 16 per self-attention with its projections, 22 without the rule"
    form: ClassVar[str] = "plain"

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
        mask = added_mask(attn_mask, is_causal, query.shape[-2], key.shape[-2], query.dtype)
        return plain(query * default_scale(query, scale), key, value, mask)


@dataclass(frozen=True)
class AttentionPartialSoftmax(AttentionForm):
    """Holds in float16: the exponentials are at most 1, and the value product is scaled so that it cannot overflow.

    The result is a quotient of two rounded numbers. Where nearly equal weights let the roundings of the probabilities
    average out, that is 4.8 dB (three roundings for one) below softmax attention in float16; elsewhere there is no
    difference.

    Args:
        value_bound: largest magnitude in the value tensor for which the product stays finite in float16.
    """

    name = "attention_partial_softmax"
    title = "Attention normalised after the product with the value"
    source = "Chen et al. 2023 (arXiv 2304.11267), section 3.2.1"
    form: ClassVar[str] = "partial_softmax"

    value_bound: float = 1000.0

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
        mask = added_mask(attn_mask, is_causal, query.shape[-2], key.shape[-2], query.dtype)
        return partial_softmax(query * default_scale(query, scale), key, value, mask, self.value_bound)


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
