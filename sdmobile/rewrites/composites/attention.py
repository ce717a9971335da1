"""Attention as the composite that ML Drift runs with its own attention kernels.

out = softmax(scale · q kᵀ + mask) v
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.fx import Node

from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionShape
from sdmobile.device_profiles.runtime_rules.tflite_operators import ATTENTION
from sdmobile.rewrites.attention.arithmetic import plain
from sdmobile.rewrites.attention.base import AttentionOperatorForm, Operands, attention_of
from sdmobile.rewrites.composites.builder import Composite, load_marks, renew_marks
from sdmobile.rewrites.operators import arguments, shape_of
from sdmobile.rewrites.rule import Match


@dataclass(frozen=True)
class AttentionComposite(AttentionOperatorForm):
    """`odml.scaled_dot_product_attention` on (B, S, H, D), the order in which projections leave the heads.

    The captured transposes to (B, H, S, D) and back cancel, so that neither they nor the scores are in the graph. In
    the picture another rule's name stands for what that rule writes.

    Captured:
        y = scaled_dot_product_attention(q, k, v)                       (B, H, M, D)

    Rewritten:
        q', k', v' = mark_tensor(transpose(q, 1, 2)), …                 (B, M, H, D), the composite's operands
        o = attention_plain(transpose(q', 1, 2), transpose(k', 1, 2), transpose(v', 1, 2))        (B, H, M, D)
        y = transpose(mark_tensor(transpose(o, 1, 2)), 1, 2)            (B, H, M, D)
    """

    name = "attention_composite"
    title = "Attention as one composite node with a plain decomposition"
    source = "google-ai-edge/LiteRT@f67457790c, ml_drift_delegate/tflite/model_builder.cc"
    form: ClassVar[str] = "composite"
    composite: ClassVar[bool] = True

    def check(self, match: Match) -> str | None:
        operands = arguments(attention_of(match))
        query, key, value = (shape_of(operands[name]) for name in ("query", "key", "value"))
        if len(query) != 4:
            return f"the query has rank {len(query)}; the composite takes (B, S, H, D)"
        if key != value:
            return f"key {key} and value {value} differ; the kernel takes equal shapes"
        return super().check(match)

    def written_scores(self, shape: AttentionShape, element_bytes: int) -> int:
        return 0

    def prepare(self) -> None:
        load_marks()

    def renew(self, added: Sequence[Node]) -> None:
        renew_marks(added)

    def attend(self, attention: Operands) -> Tensor:
        mask = attention.added_mask()
        return attention_composite(attention.query, attention.key, attention.value, mask, attention.scale)


def attention_composite(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention between the marks of a composite.

    One head at a batch of several is written as several heads at a batch of one. LiteRT's CPU delegate knows the
    composite by its name and does not look at the decomposition; it takes one head of keys for one that all queries
    share, and loses the batch: 11 dB or "failed to reshape" in ai-edge-litert 2.3.0.

    Args:
        query: (B, H, M, D).
        key, value: (B, H, N, D).
        mask: added to the scores; it broadcasts to (B, H, M, N).
        scale: factor of the scores.
    """
    if query.shape[1] > 1 or query.shape[0] == 1:
        return _marked(query, key, value, mask, scale)
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    mask = None if mask is None else _rank_4(mask).transpose(0, 1)
    return _marked(query, key, value, mask, scale).transpose(0, 1)


def _marked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Writes the composite with the operands as they are."""
    marks = Composite(ATTENTION, {"scale": float(scale)})
    inputs = [x.transpose(1, 2) for x in (query, key, value)]
    if mask is not None:
        inputs.append(_rank_4(mask))
    q, k, v, *masks = marks.enter(*inputs)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = plain(q * scale, k, v, masks[0] if masks else None)
    return marks.leave(out.transpose(1, 2)).transpose(1, 2)


def _rank_4(mask: Tensor) -> Tensor:
    return mask.reshape((1,) * (4 - mask.ndim) + tuple(mask.shape))
