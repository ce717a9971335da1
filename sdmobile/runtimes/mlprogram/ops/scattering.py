"""Writing into parts of a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdmobile.runtimes.mlprogram.ops.indexing import positions_in, selection
from sdmobile.runtimes.mlprogram.ops.registry import Context, op

_MODES = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


@op()
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str,
    context: Context,
    axis: int = 0,
    validate_indices: bool = False,
) -> Tensor:
    """data with data[..., indices[i], ...] ∘ updates[..., i, ...] along an axis.

    The mode must be given: by its documentation it is "update" by default, coremltools' code fills in "add".
    """
    axis %= data.dim()
    places = positions_in(indices, data.shape[axis], context).numpy()
    return _written(data, (*[slice(None)] * axis, places), updates, mode, context)


@op()
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    context: Context,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """data with data[p, ..., indices[p], ...] ∘ updates[p], the index of one axis given per position p.

    In the mode "update" the last of several updates of one place counts, as coremltools computes it.
    """
    places: list[Any] = list(np.indices(tuple(indices.shape), sparse=True))
    places[axis] = positions_in(indices, data.shape[axis], context).numpy()
    return _written(data, tuple(places), updates, mode, context, last_counts=True)


@op()
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, context: Context, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """data with data[indices[i, 0], indices[i, 1], ...] ∘ updates[i]."""
    parts = [positions_in(part, data.shape[axis], context).numpy() for axis, part in enumerate(indices.unbind(-1))]
    return _written(data, tuple(parts), updates, mode, context)


@op(moves_data=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: list[int],
    end: list[int],
    context: Context,
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    """x with x[begin:end:stride] = update; the slice is that of slice_by_index."""
    ranges, _ = selection(tuple(x.shape), begin, end, stride, begin_mask, end_mask, squeeze_mask, context)
    result = x.numpy().copy()
    result[np.ix_(*(list(axis) for axis in ranges))] = update.numpy().reshape([len(axis) for axis in ranges])
    return torch.from_numpy(result)


@op(moves_data=True)
def non_zero(x: Tensor) -> Tensor:
    """The indices of the elements that are not 0, one row each."""
    return torch.nonzero(x).to(torch.int32)


def _written(
    data: Tensor, places: tuple[Any, ...], updates: Tensor, mode: str, context: Context, last_counts: bool = False
) -> Tensor:
    result = data.numpy().copy()
    if mode == "update":
        if not last_counts:
            _refuse_repeats(result.shape, places, context)
        result[places] = updates.numpy()
    elif mode in _MODES:
        _MODES[mode].at(result, places, updates.numpy())
    else:
        raise context.unsupported(f"mode {mode}")
    return torch.from_numpy(result)


def _refuse_repeats(shape: tuple[int, ...], places: tuple[Any, ...], context: Context) -> None:
    """The definition does not say which of two updates of one place wins."""
    count = np.zeros(shape, np.int32)
    np.add.at(count, places, 1)
    if count.size and int(count.max()) > 1:
        raise context.unsupported("one place updated twice")
