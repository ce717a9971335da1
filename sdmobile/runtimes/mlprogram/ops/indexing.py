"""Slices and gathers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.runtimes.mlprogram.ops.registry import Context, op


@op(moves_data=True)
def slice_by_index(
    x: Tensor,
    begin: list[int],
    end: list[int],
    context: Context,
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    """x[begin:end:stride] per axis; masks open a side, or take the element at `begin` and drop the axis."""
    ranges, dropped = selection(tuple(x.shape), begin, end, stride, begin_mask, end_mask, squeeze_mask, context)
    for axis, places in enumerate(ranges):
        x = _take(x, axis, places)
    return x.squeeze(dropped) if dropped else x


def selection(
    shape: tuple[int, ...],
    begin: list[int],
    end: list[int],
    stride: list[int] | None,
    begin_mask: list[bool] | None,
    end_mask: list[bool] | None,
    squeeze_mask: list[bool] | None,
    context: Context,
) -> tuple[list[range], list[int]]:
    """Returns the positions that a slice takes of each axis, and the axes that it drops."""
    nothing = [False] * len(shape)
    begin_mask, end_mask, squeeze_mask = begin_mask or nothing, end_mask or nothing, squeeze_mask or nothing
    ranges = []
    for axis, step in enumerate(stride or [1] * len(shape)):
        if step == 0:
            raise context.unsupported("stride 0")
        if squeeze_mask[axis]:
            first = 0 if begin_mask[axis] else begin[axis] % shape[axis]
            ranges.append(range(first, first + 1))
        else:
            # An open side is that where a walk of this direction begins or ends.
            first, last = None if begin_mask[axis] else begin[axis], None if end_mask[axis] else end[axis]
            ranges.append(range(shape[axis])[first:last:step])
    return ranges, [axis for axis, squeezed in enumerate(squeeze_mask) if squeezed]


@op(moves_data=True)
def slice_by_size(x: Tensor, begin: list[int], size: list[int], context: Context) -> Tensor:
    """`size` elements from `begin` on, per axis; −1 means up to the end."""
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        if first < 0 or count == 0:
            raise context.unsupported(f"begin {begin} and size {size}")
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


def _take(x: Tensor, axis: int, positions: range) -> Tensor:
    if positions == range(x.shape[axis]):
        return x
    if positions.step == 1:
        return x.narrow(axis, positions.start, len(positions))
    return x.index_select(axis, torch.tensor(list(positions), dtype=torch.int64))


@op(moves_data=True)
def gather(
    x: Tensor,
    indices: Tensor,
    context: Context,
    axis: int = 0,
    batch_dims: int = 0,
    validate_indices: bool = False,
) -> Tensor:
    """x at `indices` along an axis, for each element of the first `batch_dims` axes."""
    axis %= x.dim()
    # Out of range the result is undefined or an exception, so `validate_indices` makes no difference here.
    positions = positions_in(indices, x.shape[axis], context)
    if batch_dims == 0:
        return _gather(x, positions, axis)
    batch = x.shape[:batch_dims]
    rows = x.reshape(-1, *x.shape[batch_dims:])
    places = positions.reshape(rows.shape[0], *positions.shape[batch_dims:])
    parts = [_gather(row, place, axis - batch_dims) for row, place in zip(rows, places, strict=True)]
    result = torch.stack(parts)
    return result.reshape(*batch, *result.shape[1:])


def _gather(x: Tensor, positions: Tensor, axis: int) -> Tensor:
    taken = x.index_select(axis, positions.reshape(-1))
    return taken.reshape((*x.shape[:axis], *positions.shape, *x.shape[axis + 1 :]))


@op(moves_data=True)
def gather_along_axis(
    x: Tensor, indices: Tensor, context: Context, axis: int = 0, validate_indices: bool = False
) -> Tensor:
    """x[..., indices[..., i, ...], ...] with the indices of one axis given per position."""
    return torch.gather(x, axis, positions_in(indices, x.shape[axis], context))


@op(moves_data=True)
def gather_nd(
    x: Tensor, indices: Tensor, context: Context, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    """x[p, indices[p, ..., 0], indices[p, ..., 1], ...] for each place p of the first `batch_dims` axes."""
    parts = enumerate(indices.unbind(-1), start=batch_dims)
    places = [positions_in(part, x.shape[axis], context) for axis, part in parts]
    rank = indices.dim() - 1
    batch = [
        torch.arange(n).reshape([-1 if a == i else 1 for a in range(rank)]) for i, n in enumerate(x.shape[:batch_dims])
    ]
    return x[(*batch, *places)]


def positions_in(indices: Tensor, size: int, context: Context) -> Tensor:
    """Returns int64 indices; negative ones count from the end before iOS 17 and are out of range from it on."""
    positions = indices.to(torch.int64)
    lowest = -size if context.ios < 17 else 0
    if positions.numel() and not bool(((positions >= lowest) & (positions < size)).all()):
        raise context.unsupported(f"an index out of range [{lowest}, {size})")
    return torch.where(positions < 0, positions + size, positions)


@op(moves_data=True)
def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    context: Context,
    axis: int = -1,
    on_value: float = 1,
    off_value: float = 0,
) -> Tensor:
    """on_value at the index along a new axis, off_value elsewhere; other indices have no defined result."""
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < one_hot_vector_size:
        raise context.unsupported(f"an index out of range [0, {one_hot_vector_size})")
    hot = F.one_hot(indices.to(torch.int64), one_hot_vector_size).movedim(-1, axis)
    values = torch.where(hot == 1, torch.tensor(on_value), torch.tensor(off_value))
    dtype = context.outputs[0].type.dtype
    return values.bool() if dtype == "bool" else values.float() if dtype.startswith("float") else values.to(torch.int32)
