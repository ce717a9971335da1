"""ReLU attention of MobileDiffusion: no softmax, so no exponential and no sum over the keys.

    out = relu(q kᵀ / √d) v · c        c = 1 or 1/N

Zhao et al., "MobileDiffusion", 2023 (arXiv 2311.16567), section on attention; the normaliser is not published there.
1/N, the number of keys: Wortsman et al., "Replacing softmax with ReLU in Vision Transformers", 2023 (arXiv 2309.08586).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionShape
from sdmobile.rewrites.attention.arithmetic import scores, weighted
from sdmobile.rewrites.attention.base import AttentionOperatorForm, Operands, attention_of, attention_shape
from sdmobile.rewrites.attention.blocked import block_rows, in_blocks, over_budget
from sdmobile.rewrites.operators import arguments
from sdmobile.rewrites.rule import Exactness, Match

Normaliser = Literal["none", "length"]


@dataclass(frozen=True)
class ReluAttention(AttentionOperatorForm):
    """Another function than softmax attention: for checkpoints that were fine-tuned with it, or at the user's own risk.

    A boolean or causal mask is multiplied with the ReLU of the scores. The picture is of the normaliser "length".
    Where the scores exceed the budget, each block of queries is computed by itself and the blocks are joined.

    Captured:
        y = scaled_dot_product_attention(q, k, v)                       (B, H, M, E)

    Rewritten:
        w = relu(einsum(mul(q, 1/√(D·N)), k))                           (B, H, M, N)
        y = einsum(w, mul(v, 1/√N))                                     (B, H, M, E)

    Args:
        normaliser: "none", or "length" for a division by the number of keys.
        approved: the checkpoint declares ReLU attention with this normaliser, or the user asked for it by name.
        budget_bytes: most bytes of a tensor of scores; None for no limit.
        element_bytes: bytes of a score on the device: 2 for float16, 4 for float32.
    """

    name = "relu_attention"
    title = "ReLU in the place of softmax (changes the function)"
    source = "Zhao et al. 2023 (arXiv 2311.16567); normaliser of Wortsman et al. 2023 (arXiv 2309.08586)"
    exactness = Exactness.CHANGES_FUNCTION
    bound_db = -math.inf
    form: ClassVar[str] = "relu"

    normaliser: Normaliser = "length"
    approved: bool = False
    budget_bytes: int | None = None
    element_bytes: int = 2

    def _chosen(self, node: object) -> bool:
        """Not a question of the device: the checkpoint decides."""
        return True

    def check(self, match: Match) -> str | None:
        if not self.approved:
            return (
                "it changes the function, and the checkpoint does not declare ReLU attention; "
                "--allow-approximate relu_attention takes it all the same"
            )
        operands = arguments(attention_of(match))
        if operands["attn_mask"] is not None and operands["attn_mask"].meta["val"].dtype != torch.bool:
            return "the mask is added to the scores: without an exponential that does not hide a key"
        shape = attention_shape(attention_of(match))
        if self.budget_bytes is not None and (reason := over_budget(shape, self.budget_bytes, self.element_bytes)):
            return reason
        return super().check(match)

    def rows(self, shape: AttentionShape) -> int:
        """Returns the number of queries of a block; all of them where their scores fit the budget."""
        if self.budget_bytes is None:
            return shape.queries
        return block_rows(shape, self.budget_bytes, self.element_bytes)

    def written_scores(self, shape: AttentionShape, element_bytes: int) -> int:
        return shape.row_bytes(element_bytes) * self.rows(shape)

    def attend(self, attention: Operands) -> Tensor:
        query, key, value, factor = attention.query, attention.key, attention.value, attention.scale
        if self.normaliser == "length":
            # Half of the division on either side: 1/N in one place is near the smallest float16 numbers.
            share = key.shape[-2] ** -0.5
            factor, value = factor * share, value * share
        *batch, queries, head_dim = query.shape
        rows = self.rows(AttentionShape(math.prod(batch), 1, queries, key.shape[-2], head_dim, value.shape[-1]))

        def attend(block: Tensor, mask: Tensor | None) -> Tensor:
            taking_part = scores(block, key, None).relu()
            return weighted(taking_part if mask is None else taking_part * mask, value)

        return in_blocks(query * factor, _shown(attention), rows, attend)


def _shown(attention: Operands) -> Tensor | None:
    """Returns 1 where a key takes part and 0 where not, (..., M, N) or one row for all; None where all do."""
    query, key, mask = attention.query, attention.key, attention.mask
    if attention.is_causal:
        return torch.tensor(np.tri(query.shape[-2], key.shape[-2]), dtype=query.dtype)
    return None if mask is None else mask.to(query.dtype)
