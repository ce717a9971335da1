"""Partially fused softmax: normalise after the product with the value.

    out = (exp(s − max s) v) / Σ exp(s − max s)        s = scale · q kᵀ + mask

The division is of M·E numbers instead of M·N, and the matrix of probabilities is never a tensor. Chen et al., "Speed
Is All You Need", 2023, section 3.2.1, as far as a file can say it; the runtime's kernels do the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sdmobile.rewrites.attention.arithmetic import added_mask, default_scale, partial_softmax
from sdmobile.rewrites.attention.base import AttentionForm


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
