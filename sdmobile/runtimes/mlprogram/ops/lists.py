"""Lists of tensors of one shape: a tensor with the elements along its first axis, 0 where none was written."""

from __future__ import annotations

import torch
from torch import Tensor

from sdmobile.runtimes.mlprogram.ops.registry import Context, op

LONGEST = 1 << 20
"""Elements of a list beyond which an index is taken for a mistake."""


@op(moves_data=True)
def make_list(
    elem_shape: list[Tensor],
    context: Context,
    init_length: int = 1,
    dynamic_length: bool = True,
    dtype: str = "fp32",
) -> Tensor:
    """A list of zeros; element type and shape are those of the declared result."""
    declared = context.outputs[0].type
    kind = (
        torch.float32 if declared.dtype.startswith("float") else torch.bool if declared.dtype == "bool" else torch.int32
    )
    # The first element that is written gives sizes that are not known here.
    return torch.zeros(init_length, *(size or 0 for size in declared.shape[1:]), dtype=kind)


@op(moves_data=True)
def list_length(ls: Tensor) -> Tensor:
    """How many elements a list has."""
    return torch.tensor(ls.shape[0], dtype=torch.int32)


@op(moves_data=True)
def list_read(ls: Tensor, index: int, context: Context) -> Tensor:
    """One element."""
    return ls[_places(torch.tensor([index]), ls.shape[0], context)[0]]


@op(moves_data=True)
def list_gather(ls: Tensor, indices: Tensor, context: Context) -> Tensor:
    """Some elements along a new first axis."""
    return ls[_places(indices, ls.shape[0], context)]


@op(moves_data=True)
def list_write(ls: Tensor, index: int, value: Tensor, context: Context) -> Tensor:
    """The list with one element replaced; an index behind its end lengthens it."""
    return _written(ls, torch.tensor([index]), value[None], context)


@op(moves_data=True)
def list_scatter(ls: Tensor, indices: Tensor, value: Tensor, context: Context) -> Tensor:
    """The list with some elements replaced; an index behind its end lengthens it."""
    return _written(ls, indices, value, context)


def _written(ls: Tensor, indices: Tensor, values: Tensor, context: Context) -> Tensor:
    if not len(indices):
        return ls
    length = max(ls.shape[0], int(indices.max()) + 1)
    if length > LONGEST:
        raise context.unsupported(f"a list of {length} elements, more than {LONGEST}")
    shape = values.shape[1:] if ls.shape[1:].numel() == 0 else ls.shape[1:]
    result = torch.zeros(length, *shape, dtype=ls.dtype)
    if ls.shape[1:] == shape:
        result[: ls.shape[0]] = ls
    result[_places(indices, length, context)] = values
    return result


def _places(indices: Tensor, length: int, context: Context) -> Tensor:
    places = indices.reshape(-1).to(torch.int64)
    if bool(((places < 0) | (places >= length)).any()):
        raise context.unsupported(f"an index out of range [0, {length}) of a list")
    return places
