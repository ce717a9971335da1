"""Elements moved between channels, batch and space, and windows along an axis."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.runtimes.mlprogram.ops.registry import Context, op


@op(moves_data=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """[n, C·f², H, W] to [n, C, H·f, W·f], channels in the order (C, row, column)."""
    return F.pixel_shuffle(x, upscale_factor)


@op(moves_data=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """[n, C, H, W] to [n, C·f², H/f, W/f], the inverse of pixel_shuffle."""
    return F.pixel_unshuffle(x, downscale_factor)


@op(moves_data=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """[n, C·b², H, W] to [n, C, H·b, W·b], channels in the order (row, column, C), as in TensorFlow."""
    blocks = x.unflatten(1, (block_size, block_size, -1))
    return blocks.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


@op(moves_data=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """[n, C, H, W] to [n, C·b², H/b, W/b], the inverse of depth_to_space."""
    blocks = x.unflatten(3, (-1, block_size)).unflatten(2, (-1, block_size))
    return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


@op(moves_data=True)
def space_to_batch(x: Tensor, block_shape: list[int], paddings: Tensor) -> Tensor:
    """[n, C, H, W], padded with 0, to [n·b₀·b₁, C, H/b₀, W/b₁], batch in the order (row, column, n)."""
    (top, bottom), (left, right) = paddings.tolist()
    rows, columns = block_shape
    blocks = F.pad(x, (left, right, top, bottom)).unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
    return blocks.permute(3, 5, 0, 1, 2, 4).flatten(0, 2)


@op(moves_data=True)
def batch_to_space(x: Tensor, block_shape: list[int], crops: Tensor, context: Context) -> Tensor:
    """[n·b₀·b₁, C, H, W] to [n, C, H·b₀, W·b₁], of which rows and columns at the edges are cut off."""
    (top, bottom), (left, right) = crops.tolist()
    blocks = x.unflatten(0, (*block_shape, -1)).permute(2, 3, 4, 0, 5, 1).flatten(4, 5).flatten(2, 3)
    height, width = blocks.shape[2] - top - bottom, blocks.shape[3] - left - right
    if min(top, bottom, left, right, height, width) < 0:
        raise context.unsupported(f"crops {crops.tolist()} of {list(blocks.shape[2:])}")
    return blocks[:, :, top : top + height, left : left + width]


@op(moves_data=True)
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """All windows of some elements along an axis, each on a new axis behind it."""
    axis %= x.dim()
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


@op(moves_data=True)
def reverse_sequence(x: Tensor, lengths: Tensor, context: Context, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """x with the first `lengths[i]` elements of one axis in the opposite order, for each i of another."""
    size = x.shape[seq_axis]
    if seq_axis % x.dim() == batch_axis % x.dim() or bool(((lengths < 0) | (lengths > size)).any()):
        raise context.unsupported(f"lengths {lengths.tolist()} of an axis of {size}, axes {seq_axis} and {batch_axis}")
    places, ends = torch.arange(size), lengths[:, None]
    order = torch.where(places < ends, ends - 1 - places, places).to(torch.int64)
    moved = x.movedim((batch_axis, seq_axis), (0, 1))
    order = order.reshape(*order.shape, *[1] * (x.dim() - 2)).expand(moved.shape)
    return moved.gather(1, order).movedim((0, 1), (batch_axis, seq_axis))
