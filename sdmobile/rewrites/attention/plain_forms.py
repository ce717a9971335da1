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

from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionShape
from sdmobile.rewrites.attention.arithmetic import partial_softmax, plain
from sdmobile.rewrites.attention.base import AttentionOperatorForm, Operands


@dataclass(frozen=True)
class AttentionPlain(AttentionOperatorForm):
    """Product, softmax, product on (B, H, S, D), for runtimes that know no attention operator.

    The converter's own lowering of the operator reshapes every operand to rank 3 and back.

    Captured:
        y = scaled_dot_product_attention(q, k, v)                       (B, H, M, E)

    Rewritten:
        s = einsum(mul(q, 1/√D), k)                                     (B, H, M, N)
        y = einsum(softmax(s, -1), v)                                   (B, H, M, E)
    """

    name = "attention_plain"
    title = "Attention as product, softmax, product of rank 4"
    source = "own count of LiteRT operators: 16 per self-attention with its projections, 22 without the rule"
    form: ClassVar[str] = "plain"

    def attend(self, attention: Operands) -> Tensor:
        mask = attention.added_mask()
        return plain(attention.scaled_query(), attention.key, attention.value, mask)


@dataclass(frozen=True)
class AttentionPartialSoftmax(AttentionOperatorForm):
    """Attention that is normalised after the product with the value.

        out = (exp(s − max s) v) / Σ exp(s − max s)        s = scale · q kᵀ + mask

    The division is of M·E numbers instead of M·N, and the matrix of probabilities is never a tensor: section 3.2.1 of
    the paper, as far as a file can say it; the runtime's kernels do the rest. It holds in float16: the exponentials are
    at most 1, and value and sum are scaled so that the product cannot overflow.

    The result is a quotient of two rounded numbers. Where nearly equal weights let the roundings of the probabilities
    average out, that is 4.8 dB (three roundings for one) below softmax attention in float16; elsewhere there is no
    difference.

    Captured:
        y = scaled_dot_product_attention(q, k, v)                       (B, H, M, E)

    Rewritten:
        s = einsum(mul(q, 1/√D), k)                                     (B, H, M, N)
        e = exp(sub(s, amax(s, -1)))                                    (B, H, M, N)
        y = div(einsum(e, v), sum(e, -1))                               (B, H, M, E)

    Args:
        value_bound: largest magnitude in the value tensor for which the product stays finite in float16.
    """

    name = "attention_partial_softmax"
    title = "Attention normalised after the product with the value"
    source = "Chen et al. 2023 (arXiv 2304.11267), section 3.2.1"
    form: ClassVar[str] = "partial_softmax"

    value_bound: float = 1000.0

    def attend(self, attention: Operands) -> Tensor:
        mask = attention.added_mask()
        return partial_softmax(attention.scaled_query(), attention.key, attention.value, mask, self.value_bound)


@dataclass(frozen=True)
class AttentionSdpa(AttentionOperatorForm):
    """The one operator that Core ML has from iOS 18 on, without a scale argument.

    coremltools 9 writes it only where the graph gives no scale (`can_use_fused_sdpa` in its PyTorch frontend): the
    operator itself always divides by √D. Transformers passes the scale, even where it is 1/√D, so its attention comes
    out as product, softmax, product. The mask is not the cause: the operator takes boolean and added masks. Here the
    default scale is left out, another one goes to the query, and a causal mask is a constant.

    Captured:
        y = scaled_dot_product_attention(q, k, v, scale=c)              (B, H, M, E)

    Rewritten:
        y = scaled_dot_product_attention(mul(q, c·√D), k, v)            (B, H, M, E), without the product if c is 1/√D
    """

    name = "attention_sdpa"
    title = "Attention as one operator without a scale, as Core ML takes it from iOS 18"
    source = "coremltools 9.0, converters/mil/frontend/torch/ops.py, scaled_dot_product_attention"
    form: ClassVar[str] = "sdpa"

    def written_scores(self, shape: AttentionShape, element_bytes: int) -> int:
        return 0

    def attend(self, attention: Operands) -> Tensor:
        query, key, mask = attention.query, attention.key, attention.mask
        factor = attention.scale * math.sqrt(query.shape[-1])
        if not math.isclose(factor, 1.0, rel_tol=1e-6):
            query = query * factor
        if attention.is_causal:
            mask = torch.tensor(np.tri(query.shape[-2], key.shape[-2], dtype=bool))
        return F.scaled_dot_product_attention(query, key, attention.value, mask)
