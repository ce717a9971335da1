"""Activations of eight bits."""

from __future__ import annotations

import torch
from torch import Tensor

from sdmobile.runtimes.mlprogram.ops.registry import Context, op

_LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


@op(moves_data=True)
def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    context: Context,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """clip(round(x / scale) + zero_point) to int8 or uint8, halves to even; both per tensor or along an axis."""
    if output_dtype not in _LIMITS:
        raise context.unsupported(f"output_dtype {output_dtype}")
    values = torch.round(input / _along(scale, input, axis, context))
    if not bool(values.isfinite().all()):
        raise context.unsupported("a value that is not finite (its result is undefined)")
    if zero_point is not None:
        values = values + _along(zero_point, input, axis, context)
    return values.clamp(*_LIMITS[output_dtype]).to(torch.int32)


@op()
def dequantize(
    input: Tensor, scale: Tensor, context: Context, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """scale · (x − zero_point), both per tensor or along an axis."""
    values = input.float()
    if zero_point is not None:
        values = values - _along(zero_point, input, axis, context)
    return values * _along(scale, input, axis, context)


def _along(parameter: Tensor, x: Tensor, axis: int | None, context: Context) -> Tensor:
    """Returns a scale or zero point in a shape that broadcasts along its axis."""
    if parameter.dim() == 0:
        return parameter
    if axis is None or parameter.shape != (x.shape[axis],):
        raise context.unsupported(f"{list(parameter.shape)} scales or zero points along axis {axis} of {list(x.shape)}")
    shape = [1] * x.dim()
    shape[axis] = -1
    return parameter.reshape(shape)
