"""Attention in four plain operators, as few reshapes and transposes around them as a converter needs.

out = softmax(scale · q kᵀ + mask) v
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sdmobile.rewrites.attention.arithmetic import added_mask, default_scale, plain
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
