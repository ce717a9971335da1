"""Operations that rearrange, join, repeat or create elements."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.runtimes.mlprogram.ops.registry import Context, op


@op(moves_data=True)
def reshape(x: Tensor, shape: list[int], context: Context) -> Tensor:
    """x with another shape; −1 is inferred, 0 is the size of the same axis of x (from iOS 17 counted from the end)."""
    if context.ios < 17 and 0 in shape and len(shape) != x.dim():
        raise context.unsupported(f"shape {shape} with 0 for an input of rank {x.dim()}")
    offset = x.dim() - len(shape)
    sizes = [size or (x.shape[i + offset] if i + offset >= 0 else 1) for i, size in enumerate(shape)]
    return x.reshape(sizes)


@op(moves_data=True)
def reshape_like(
    x: Tensor, ref_tensors: list[Tensor], begins: list[Tensor], ends: list[Tensor], end_masks: list[Tensor]
) -> Tensor:
    """x with a shape put together from parts shape[begin:end] of other tensors, or shape[begin:] under a mask."""
    parts = zip(ref_tensors, begins, ends, end_masks, strict=True)
    return x.reshape([n for ref, begin, end, mask in parts for n in ref.shape[int(begin) : None if mask else int(end)]])


@op(moves_data=True)
def transpose(x: Tensor, perm: list[int]) -> Tensor:
    """x with its axes in the order `perm`."""
    return x.permute(perm)


@op(moves_data=True)
def expand_dims(x: Tensor, axes: list[int]) -> Tensor:
    """x with axes of size 1 at the given places of the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@op(moves_data=True)
def squeeze(x: Tensor, axes: list[int] | None = None) -> Tensor:
    """x without the axes of size 1 (among `axes`)."""
    return x.squeeze() if axes is None else x.squeeze(axes)


@op(moves_data=True)
def concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """The inputs one after the other along an axis, or their elements in turn; a scalar counts as one element."""
    values = [value.reshape(1) if value.dim() == 0 else value for value in values]
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].dim()
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


@op(moves_data=True)
def stack(values: list[Tensor], axis: int) -> Tensor:
    """The inputs along a new axis."""
    return torch.stack(values, axis)


@op(moves_data=True)
def split(
    x: Tensor, axis: int, context: Context, num_splits: int | None = None, split_sizes: list[int] | None = None
) -> list[Tensor]:
    """Parts of x along an axis, of equal or given sizes."""
    if split_sizes is None:
        if not num_splits or x.shape[axis] % num_splits:
            raise context.unsupported(f"num_splits {num_splits} of an axis of {x.shape[axis]}")
        split_sizes = [x.shape[axis] // num_splits] * num_splits
    elif num_splits is not None and num_splits != len(split_sizes):
        raise context.unsupported(f"num_splits {num_splits} with split_sizes {split_sizes}")
    return list(torch.split(x, split_sizes, axis))


@op(moves_data=True)
def tile(x: Tensor, reps: list[int]) -> Tensor:
    """x repeated along each axis."""
    return x.repeat(reps)


@op(moves_data=True)
def reverse(x: Tensor, axes: list[int] | None = None) -> Tensor:
    """x in the opposite order along `axes`, or along all."""
    return x.flip(list(range(x.dim())) if axes is None else axes)


@op()
def pad(x: Tensor, pad: list[int], context: Context, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """x extended before and after its last len(pad)/2 axes by a constant, by reflection or by its border."""
    count = len(pad) // 2
    torch_order = [n for i in reversed(range(count)) for n in (pad[2 * i], pad[2 * i + 1])]
    if mode == "constant":
        return F.pad(x, torch_order, value=constant_val)
    if mode not in ("reflect", "replicate"):
        raise context.unsupported(f"mode {mode}")
    for i in range(count):
        x = _pad_axis(x, x.dim() - count + i, pad[2 * i], pad[2 * i + 1], mode)
    return x


def _pad_axis(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    size = x.shape[axis]
    positions = torch.arange(-before, size + after)
    positions = positions.clamp(0, size - 1) if mode == "replicate" else size - 1 - (size - 1 - positions.abs()).abs()
    return x.index_select(axis, positions)


@op(moves_data=True)
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """x where m − n ≤ lower and n − m ≤ upper (a negative limit keeps all), 0 elsewhere; m, n index the last axes."""
    rows, columns = x.shape[-2:]
    distance = torch.arange(rows)[:, None] - torch.arange(columns)[None, :]
    keep = torch.ones(rows, columns, dtype=torch.bool)
    if lower >= 0:
        keep &= distance <= lower
    if upper >= 0:
        keep &= -distance <= upper
    return torch.where(keep, x, torch.zeros((), dtype=x.dtype))


@op(moves_data=True)
def fill(shape: list[int], context: Context, value: float = 0.0) -> Tensor:
    """A tensor of one value."""
    return torch.full(shape, value, dtype=_dtype(context))


@op(moves_data=True)
def fill_like(ref_tensor: Tensor, context: Context, value: float = 0.0) -> Tensor:
    """A tensor of one value with the shape of another."""
    return torch.full(ref_tensor.shape, value, dtype=_dtype(context))


@op("shape", moves_data=True)
def shape_of(x: Tensor) -> Tensor:
    """The shape of x."""
    return torch.tensor(x.shape, dtype=torch.int32)


@op(moves_data=True)
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """x as a matrix: the axes before `axis`, and the others."""
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _dtype(context: Context) -> torch.dtype:
    dtype = context.outputs[0].type.dtype
    return torch.bool if dtype == "bool" else torch.float32 if dtype.startswith("float") else torch.int32
