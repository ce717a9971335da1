"""Attention computed for a block of queries at a time, so that no score tensor exceeds a budget.

    out[i] = attention(q[i], k, v)        q[i]: as many rows as B · H · rows · N scores fit the budget

The purpose of FlashAttention (Dao et al. 2022) with a file's means: the keys need no blocks, because a row of scores
is small. SD1.5 at 512 pixels has 8 · 4096 · 4096 scores, 268 MB in float16 per image, which a GPU buffer does not take.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionShape
from sdmobile.rewrites.attention.arithmetic import partial_softmax, plain
from sdmobile.rewrites.attention.base import AttentionOperatorForm, Operands, attention_of, attention_shape
from sdmobile.rewrites.rule import Match


def block_rows(shape: AttentionShape, budget_bytes: int, element_bytes: int) -> int:
    """Returns the number of queries of a block: the fewest blocks whose scores fit, made equally high.

    Args:
        shape: of the attention.
        budget_bytes: most bytes of a block's scores; at least those of one query.
        element_bytes: bytes of a score on the device.
    """
    blocks = math.ceil(shape.queries / (budget_bytes // shape.row_bytes(element_bytes)))
    return math.ceil(shape.queries / blocks)


def over_budget(shape: AttentionShape, budget_bytes: int, element_bytes: int) -> str | None:
    """Returns why no block fits a budget; None where one of a single query does."""
    row = shape.row_bytes(element_bytes)
    return (
        f"the scores of one query take {row} bytes, more than the budget of {budget_bytes}"
        if row > budget_bytes
        else None
    )


@dataclass(frozen=True)
class AttentionBlocked(AttentionOperatorForm):
    """Blocks of equal height, of which the last one may be lower.

    In the picture another rule's name stands for what that rule writes (that of `inner`), here without its scale.

    Captured:
        y = scaled_dot_product_attention(q, k, v)                       (B, H, M, E)

    Rewritten:
        q₁, …, qₙ = split(mul(q, 1/√D), rows, -2)                       (B, H, rows, D) each
        oᵢ = attention_partial_softmax(qᵢ, k, v)                        (B, H, rows, E), scores of (B, H, rows, N)
        y = transpose(cat(transpose(o₁, 1, 2), …), 1, 2)                (B, H, M, E)

    Args:
        budget_bytes: most bytes of the scores of one block, in all heads and images.
        element_bytes: bytes of a score on the device: 2 for float16, 4 for float32.
        inner: what is done within a block: "softmax", or "partial_softmax", which needs no tensor of probabilities.
        value_bound: for "partial_softmax", as there.
    """

    name = "attention_blocked"
    title = "Attention in blocks of queries whose scores fit a byte budget"
    source = (
        "Dao et al. 2022 (arXiv 2205.14135), section 3.1, blocks of queries only; the budget is the device profile's"
    )
    form: ClassVar[str] = "blocked"

    budget_bytes: int = 134_217_728
    element_bytes: int = 2
    inner: Literal["softmax", "partial_softmax"] = "partial_softmax"
    value_bound: float = 1000.0

    def check(self, match: Match) -> str | None:
        shape = attention_shape(attention_of(match))
        return super().check(match) or over_budget(shape, self.budget_bytes, self.element_bytes)

    def rows(self, shape: AttentionShape) -> int:
        """Returns the number of queries of a block."""
        return block_rows(shape, self.budget_bytes, self.element_bytes)

    def written_scores(self, shape: AttentionShape, element_bytes: int) -> int:
        return shape.row_bytes(element_bytes) * self.rows(shape)

    def attend(self, attention: Operands) -> Tensor:
        key, value = attention.key, attention.value
        *batch, queries, head_dim = attention.query.shape
        rows = self.rows(AttentionShape(math.prod(batch), 1, queries, key.shape[-2], head_dim, value.shape[-1]))
        mask, scaled = attention.added_mask(), attention.scaled_query()
        return in_blocks(scaled, mask, rows, lambda block, part: self._attend(block, key, value, part))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if self.inner == "partial_softmax":
            return partial_softmax(query, key, value, mask, self.value_bound)
        return plain(query, key, value, mask)


def in_blocks(
    query: Tensor, mask: Tensor | None, rows: int, attend: Callable[[Tensor, Tensor | None], Tensor]
) -> Tensor:
    """Returns what `attend` makes of blocks of queries, with the rows of the mask that belong to them, joined.

    Args:
        query: (..., M, D).
        mask: (..., M, N), or one row for all queries; None for no mask.
        rows: queries of a block; the last one may have fewer.
        attend: of a block and its mask, (..., rows, E).
    """
    queries = query.shape[-2]
    starts = range(0, queries, rows)
    blocks = [query] if len(starts) == 1 else query.split(rows, -2)
    return _joined(
        [
            attend(block, _rows_of(mask, start, block.shape[-2], queries))
            for start, block in zip(starts, blocks, strict=True)
        ]
    )


def _rows_of(mask: Tensor | None, start: int, rows: int, queries: int) -> Tensor | None:
    """Returns the rows of a mask that belong to a block; a mask of one row is for all of them."""
    if mask is None or rows == queries or mask.ndim < 2 or mask.shape[-2] == 1:
        return mask
    return mask.narrow(-2, start, rows)


def _joined(blocks: list[Tensor]) -> Tensor:
    """Returns the blocks one below the other.

    Positions are joined before the heads: joined along (B, H, S, D), LiteRT's converter takes the products together
    again and joins the probabilities, which is the very tensor that the blocks avoid.
    """
    if len(blocks) == 1:
        return blocks[0]
    if blocks[0].ndim < 4:
        return torch.cat(blocks, -2)
    return torch.cat([block.transpose(1, 2) for block in blocks], 1).transpose(1, 2)
