"""The steps of attention in plain operators, which every plain form is made of.

Products are einsum: LiteRT's converter keeps them as one BATCH_MATMUL of rank 4 with a transposed operand, where
matmul becomes rank 3 with a RESHAPE on either side. The scale goes to the query, the smallest operand: the converters
fold it into the projection's weights.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

# Added to a score that takes no part. Not −∞: −∞ − (−∞) is not a number, and not every float16 unit keeps infinities.
# Scores up to this magnitude stay finite in float16; half of it is the largest score that a mask still hides exactly.
MASKED = -3e4


def default_scale(query: Tensor, scale: float | None) -> float:
    """Returns the factor of the scores, 1/√D if none is given."""
    return 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale


def added_mask(mask: Tensor | None, is_causal: bool, queries: int, keys: int, dtype: torch.dtype) -> Tensor | None:
    """Returns what is added to the scores, None for nothing.

    Args:
        mask: added as it is, or boolean and true where a key takes part.
        is_causal: keys after the query's own position take no part; the result is a constant.
        queries, keys: M and N.
        dtype: type of the scores.
    """
    if is_causal:
        return torch.tensor(np.where(np.tri(queries, keys), 0.0, MASKED), dtype=dtype)
    if mask is None or mask.dtype != torch.bool:
        return mask
    return (1.0 - mask.to(dtype)) * MASKED


def scores(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Returns q kᵀ + mask, (..., M, N), of a query that is scaled already."""
    batch = _batch(query)
    s = torch.einsum(f"{batch}qd,{batch}kd->{batch}qk", query, key)
    return s if mask is None else s + mask


def weighted(probabilities: Tensor, value: Tensor) -> Tensor:
    """Returns p v, (..., M, E)."""
    batch = _batch(value)
    return torch.einsum(f"{batch}qk,{batch}kd->{batch}qd", probabilities, value)


def _batch(x: Tensor) -> str:
    return "bh"[: x.ndim - 2]


def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Returns softmax(q kᵀ + mask) v of a query that is scaled already."""
    return weighted(scores(query, key, mask).softmax(-1), value)


def partial_softmax(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, value_bound: float) -> Tensor:
    """Returns attention that is normalised after the product with the value.

        e = exp(s − max s)        out = (e · v 2⁻ᵏ) / (Σ e · 2⁻ᵏ)

    e is at most 1, so a product of N terms reaches N · max|v|; 2⁻ᵏ keeps that below float16's largest number. A power
    of two costs no precision, and on the value it costs the least work.

    Args:
        query: (..., M, D), scaled already.
        key, value: (..., N, D) and (..., N, E).
        mask: added to the scores, or None.
        value_bound: largest |v| for which nothing overflows in float16, whatever the scores.
    """
    s = scores(query, key, mask)
    e = (s - s.amax(-1, keepdim=True)).exp()
    shrink = 2.0 ** -shrink_exponent(key.shape[-2], value_bound)
    if shrink == 1.0:
        return weighted(e, value) / e.sum(-1, keepdim=True)
    return weighted(e, value * shrink) / (e.sum(-1, keepdim=True) * shrink)


def shrink_exponent(keys: int, value_bound: float) -> int:
    """Returns the least k ≥ 0 for which keys · value_bound · 2⁻ᵏ is a float16 number."""
    return max(0, math.ceil(math.log2(keys * value_bound / 65504.0)))
