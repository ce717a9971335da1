"""Matrix products and attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.validate.mlprogram.ops.registry import Context, op


@op()
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias."""
    return F.linear(x, weight, bias)


@op()
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """x · y over the last two axes, the others broadcast; a transpose has no effect on a vector."""
    if transpose_x and x.dim() > 1:
        x = x.transpose(-1, -2)
    if transpose_y and y.dim() > 1:
        y = y.transpose(-1, -2)
    return torch.matmul(x, y)


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
    return torch.einsum(canonical, values[0], values[1])


@op()
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(query · keyᵀ / √E + mask) · value; where a boolean mask is false, −∞ is added."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
