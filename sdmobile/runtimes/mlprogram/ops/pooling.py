"""Pooling over windows."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.runtimes.mlprogram.ops.convolution import paddings, split_padding
from sdmobile.runtimes.mlprogram.ops.registry import Context, op

_AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@op()
def max_pool(
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: str,
    context: Context,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Largest element of each window."""
    strides = strides or [1] * len(kernel_sizes)
    pads = paddings(context, pad_type, pad, kernel_sizes, strides, list(x.shape[2:]))
    x, padding = split_padding(x, pads, value=-math.inf)
    return _MAX[len(kernel_sizes)](x, kernel_sizes, strides, padding, ceil_mode=ceil_mode)


@op()
def avg_pool(
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: str,
    context: Context,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Mean of each window; padded zeros count unless they are excluded."""
    strides = strides or [1] * len(kernel_sizes)
    pads = paddings(context, pad_type, pad, kernel_sizes, strides, list(x.shape[2:]))
    uneven = pads[0::2] != pads[1::2]
    if uneven and ceil_mode:
        raise context.unsupported(f"pad {pads} with ceil_mode")
    pool = _AVG[len(kernel_sizes)]
    if uneven and exclude_padding_from_average:
        inside, _ = split_padding(torch.ones_like(x[:1, :1]), pads)
        return pool(split_padding(x, pads)[0], kernel_sizes, strides) / pool(inside, kernel_sizes, strides)
    x, padding = split_padding(x, pads)
    return pool(x, kernel_sizes, strides, padding, ceil_mode, not exclude_padding_from_average)


@op()
def l2_pool(
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: str,
    context: Context,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """√Σ x² over each window."""
    strides = strides or [1] * len(kernel_sizes)
    pads = paddings(context, pad_type, pad, kernel_sizes, strides, list(x.shape[2:]))
    if ceil_mode or len(kernel_sizes) > 2:
        raise context.unsupported(f"ceil_mode {ceil_mode} with {len(kernel_sizes)} spatial dimensions")
    x, padding = split_padding(x, pads)
    means = _AVG[len(kernel_sizes)](x.square(), kernel_sizes, strides, padding)
    return (means * math.prod(kernel_sizes)).sqrt()
