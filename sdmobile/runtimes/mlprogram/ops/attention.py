"""Matrix products and attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.formats.mlprogram.types import FLOATS
from sdmobile.runtimes.mlprogram.ops import sums
from sdmobile.runtimes.mlprogram.ops.registry import Context, op


@op()
def linear(x: Tensor, weight: Tensor, context: Context, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias; from iOS 17 on integers may stand beside floats, and count as such."""
    dtype = torch.promote_types(x.dtype, weight.dtype)
    x, weight = x.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    if context.rounds_sums:
        y = sums.matmul(x, weight.t())
        return y if bias is None else y + bias
    return F.linear(x, weight, bias)


@op()
def matmul(x: Tensor, y: Tensor, context: Context, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """x · y over the last two axes, the others broadcast; a transpose has no effect on a vector.

    From iOS 17 on integers may stand beside floats, and count as such; the result has the declared type.
    """
    dtype = torch.promote_types(x.dtype, y.dtype)
    x, y = x.to(dtype), y.to(dtype)
    if transpose_x and x.dim() > 1:
        x = x.transpose(-1, -2)
    if transpose_y and y.dim() > 1:
        y = y.transpose(-1, -2)
    product = sums.matmul(x, y) if context.rounds_sums else torch.matmul(x, y)
    return product if context.outputs[0].type.dtype in FLOATS else product.to(torch.int32)


@op()
def einsum(values: list[Tensor], equation: str, context: Context) -> Tensor:
    """Σ over w of x[n,c,h,w] · y[n,w,h,u], or the same without n; sizes 1 of n and h are broadcast."""
    letters: dict[str, str] = {}
    for letter in equation.replace(" ", ""):
        if letter.isalpha() and letter not in letters:
            letters[letter] = "abcdefgh"[len(letters)]
    canonical = "".join(letters.get(letter, letter) for letter in equation.replace(" ", ""))
    if canonical not in ("abcd,adce->abce", "abc,cbd->abd") or len(values) != 2:
        raise context.unsupported(f"equation {equation}")
    x, y = values
    multiply = sums.matmul if context.rounds_sums else torch.matmul
    # Axis h in front, so that the last two axes are those of a matrix product.
    y = y.transpose(-2, -3) if x.dim() == 4 else y.transpose(0, 1)
    return multiply(x.transpose(-2, -3), y).transpose(-2, -3)


@op()
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, context: Context, attn_mask: Tensor | None = None
) -> Tensor:
    """softmax(query · keyᵀ / √E + mask) · value; where a boolean mask is false, −∞ is added."""
    if context.rounds_sums:
        return _rounded_attention(query, key, value, attn_mask)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)


def _rounded_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention whose scores and probabilities are float16 too, one matrix after the other to bound memory."""
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    batch, scores = query.shape[:-2], (*query.shape[:-1], key.shape[-2])
    masks = None if mask is None else mask.expand(scores).reshape(-1, *scores[-2:])
    rows = []
    for i, (q, k, v) in enumerate(zip(*(x.flatten(0, -3) for x in (query, key, value)), strict=True)):
        score = sums.to_float16(sums.matmul(q, k.t()) / math.sqrt(q.shape[-1]))
        if masks is not None:
            score = sums.to_float16(score + masks[i])
        rows.append(sums.matmul(sums.to_float16(torch.softmax(score, -1)), v))
    return torch.stack(rows).unflatten(0, batch)
