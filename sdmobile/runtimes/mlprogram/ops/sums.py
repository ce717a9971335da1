"""Sums of many products, as a unit that accumulates in float16 forms them.

A sum is cut into blocks of `BLOCK` consecutive terms. Each block is summed in float32 and rounded to float16; the
block sums are added in pairs, ((a+b)+(c+d))+…, and each addition is rounded. For a convolution, the terms of one input
channel count as one, whatever the kernel. This is a model: the order in which a phone adds is not published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 64


def to_float16(x: Tensor) -> Tensor:
    """Returns float32 numbers rounded to float16; too large becomes infinite."""
    return x.half().float()


def add_in_pairs(parts: Iterable[Tensor]) -> Tensor:
    """Adds tensors in pairs of equal depth, each addition rounded to float16.

    Args:
        parts: at least one tensor; all of one shape.
    """
    stack: list[tuple[int, Tensor]] = []
    for part in parts:
        depth, total = 0, to_float16(part)
        while stack and stack[-1][0] == depth:
            depth, total = depth + 1, to_float16(stack.pop()[1] + total)
        stack.append((depth, total))
    _, total = stack.pop()
    while stack:
        total = to_float16(stack.pop()[1] + total)
    return total


def total(x: Tensor, axes: list[int], keep: bool, divisor: int = 1) -> Tensor:
    """Σ x / divisor over axes, block sums divided before they are rounded, as a mean must not overflow.

    Args:
        x: any shape.
        axes: not negative, ascending.
        keep: keep the axes with size 1.
        divisor: what each block sum is divided by.
    """
    others = [axis for axis in range(x.dim()) if axis not in axes]
    terms = x.permute(*others, *axes).flatten(len(others))
    terms = F.pad(terms, (0, -terms.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    result = add_in_pairs((terms.sum(-1) / divisor).unbind(-1))
    for axis in axes if keep else []:
        result = result.unsqueeze(axis)
    return result


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """x · y over the last two axes, summed in float16."""
    if x.dim() == 1:
        return matmul(x[None], y).squeeze(-2)
    if y.dim() == 1:
        return matmul(x, y[:, None]).squeeze(-1)
    return add_in_pairs(torch.matmul(x[..., part], y[..., part, :]) for part in _blocks(x.shape[-1]))


def convolve(compute: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """A convolution, summed in float16 over blocks of input channels.

    Args:
        compute: convolves x [n, channels, ...] with the weights of the same input channels, without bias.
        x: [n, groups · C, ...].
        weight: [C_out, C, ...].
        groups: how many groups the channels form.
    """
    grouped = x.unflatten(1, (groups, -1))
    parts = (compute(grouped[:, :, part].flatten(1, 2), weight[:, part]) for part in _blocks(weight.shape[1]))
    return add_in_pairs(parts)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))
