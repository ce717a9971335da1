"""Reductions over axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdmobile.runtimes.mlprogram.ops import sums
from sdmobile.runtimes.mlprogram.ops.registry import Context, op

Reduce = Callable[[Tensor, list[int], bool], Tensor]
Sum = Callable[[Tensor, list[int], bool], Tensor]


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


_REDUCTIONS: dict[str, Reduce] = {
    "reduce_prod": _prod,
    "reduce_max": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keepdim=keep),
}


def _mean(x: Tensor, axes: list[int], keep: bool, add: Sum) -> Tensor:
    if add is _sum:
        return x.mean(axes, keepdim=keep)
    return sums.total(x, axes, keep, math.prod(x.shape[axis] for axis in axes))


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool, add: Sum) -> Tensor:
    largest = x.amax(axes, keepdim=True)
    result = add((x - largest).exp(), axes, True).log() + largest
    return result if keep else result.squeeze(axes)


_SUMS: dict[str, Callable[[Tensor, list[int], bool, Sum], Tensor]] = {
    "reduce_mean": _mean,
    "reduce_sum": lambda x, axes, keep, add: add(x, axes, keep),
    "reduce_l1_norm": lambda x, axes, keep, add: add(x.abs(), axes, keep),
    "reduce_l2_norm": lambda x, axes, keep, add: add(x.square(), axes, keep).sqrt(),
    "reduce_sum_square": lambda x, axes, keep, add: add(x.square(), axes, keep),
    "reduce_log_sum": lambda x, axes, keep, add: add(x, axes, keep).log(),
    "reduce_log_sum_exp": _log_sum_exp,
}
"""Reductions that add: the last argument does it."""
_FLOAT_ONLY = ("reduce_mean", "reduce_l2_norm", "reduce_log_sum", "reduce_log_sum_exp")


def _axes(x: Tensor, axes: list[int] | None) -> list[int]:
    return sorted({axis % x.dim() for axis in (range(x.dim()) if axes is None else axes)})


def _register(name: str, function: Reduce) -> None:
    def compute(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
        return function(x, _axes(x, axes), keep_dims)

    op(name)(compute)


def _register_sum(name: str, function: Callable[[Tensor, list[int], bool, Sum], Tensor]) -> None:
    def compute(x: Tensor, context: Context, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
        if name in _FLOAT_ONLY and not x.is_floating_point():
            raise context.unsupported("an integer input")
        return function(x, _axes(x, axes), keep_dims, sums.total if context.rounds_sums else _sum)

    op(name)(compute)


for _name, _function in _REDUCTIONS.items():
    _register(_name, _function)

for _name, _sum_function in _SUMS.items():
    _register_sum(_name, _sum_function)


_INDEX_TYPES = ("int32", "uint16")


@op()
def reduce_argmax(
    x: Tensor, context: Context, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Tensor:
    """Index of a largest element along one axis."""
    if output_dtype not in _INDEX_TYPES:
        raise context.unsupported(f"output_dtype {output_dtype}")
    return x.argmax(axis, keepdim=keep_dims).to(torch.int32)


@op()
def reduce_argmin(
    x: Tensor, context: Context, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Tensor:
    """Index of a smallest element along one axis."""
    if output_dtype not in _INDEX_TYPES:
        raise context.unsupported(f"output_dtype {output_dtype}")
    return x.argmin(axis, keepdim=keep_dims).to(torch.int32)


@op()
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Σ of the elements up to each position (without its own if exclusive), from the end if reverse."""
    y = x.flip(axis) if reverse else x
    total = y.cumsum(axis, dtype=x.dtype)
    if exclusive:
        total = total - y
    return total.flip(axis) if reverse else total
