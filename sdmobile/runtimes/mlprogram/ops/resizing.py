"""Changes of the spatial size: each axis is sampled on a grid of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdmobile.runtimes.mlprogram.ops.registry import Context, op


def grid(size: float, count: int, mode: str, context: Context) -> Tensor:
    """Returns `count` points of [0, size − 1] in float64, cut to that interval.

    Args:
        size: n, elements of the axis; a box between two elements counts its ends, one direction or the other.
        count: m.
        mode: STRICT_ALIGN_CORNERS: i·(n−1)/(m−1); ALIGN_CORNERS: the same, but (n−1)/2 for m = 1; DEFAULT: i·n/m;
            UNALIGN_CORNERS: (i + ½)·n/m − ½; OFFSET_CORNERS: (i + ½)·max(1, n−1)/m.
        context: of the operation, for errors.
    """
    i = torch.arange(count, dtype=torch.float64)
    last = size - 1
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if count == 1:
            return torch.tensor([last / 2 if mode == "ALIGN_CORNERS" else 0.0], dtype=torch.float64)
        return i * last / (count - 1)
    if mode == "DEFAULT":
        points = i * size / count
    elif mode == "UNALIGN_CORNERS":
        points = (i + 0.5) * size / count - 0.5
    elif mode == "OFFSET_CORNERS":
        points = (i + 0.5) * max(1, last) / count
    else:
        raise context.unsupported(f"sampling_mode {mode}")
    return points.clamp(0, last)


def linear(x: Tensor, axis: int, points: Tensor) -> Tensor:
    """Returns x at points of an axis, linear between its elements; a point outside takes the nearest element."""
    size = x.shape[axis]
    points = points.clamp(0, size - 1)
    low = points.floor().to(torch.int64)
    part = (points - low).float().reshape([-1 if a == axis % x.dim() else 1 for a in range(x.dim())])
    below = x.index_select(axis, low)
    return torch.lerp(below, x.index_select(axis, (low + 1).clamp(max=size - 1)), part) if bool(part.any()) else below


def nearest(x: Tensor, axis: int, count: int, half_pixel: bool) -> Tensor:
    """Returns the elements ⌊i·n/m⌋ of an axis, or ⌊(i + ½)·n/m⌋ with half a pixel."""
    size, i = x.shape[axis], torch.arange(count)
    return x.index_select(axis, (2 * i + 1) * size // (2 * count) if half_pixel else i * size // count)


def _bilinear(x: Tensor, height: int, width: int, mode: str, context: Context) -> Tensor:
    for axis, count in ((-2, height), (-1, width)):
        x = linear(x, axis, grid(x.shape[axis], count, mode, context))
    return x


@op(moves_data=True)
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    """Elements ⌊i·n/m⌋ of the last two axes, from n to m = ⌊n·factor⌋."""
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        x = nearest(x, axis, math.floor(x.shape[axis] * factor), half_pixel=False)
    return x


@op(moves_data=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """Elements ⌊(i + ½)·n/m⌋ of the last two axes, from n to m."""
    x = nearest(x, -2, target_size_height, half_pixel=True)
    return nearest(x, -1, target_size_width, half_pixel=True)


@op()
def resize(
    x: Tensor,
    shape: list[int],
    resized_dims: int,
    context: Context,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last `resized_dims` axes get the last sizes of `shape` (0: as before), linear or ⌊(i + ½)·n/m⌋.

    For the nearest element, coremltools' tests settle the mode DEFAULT alone; UNALIGN_CORNERS has the same points.
    """
    if interpolation_mode not in ("LINEAR", "NEAREST_NEIGHBOR"):
        raise context.unsupported(f"interpolation_mode {interpolation_mode}")
    closest = interpolation_mode == "NEAREST_NEIGHBOR"
    if closest and sampling_mode not in ("DEFAULT", "UNALIGN_CORNERS"):
        raise context.unsupported(f"interpolation_mode {interpolation_mode} with sampling_mode {sampling_mode}")
    if not closest and not x.is_floating_point():
        raise context.unsupported("linear interpolation of integers")
    for axis in range(-resized_dims, 0):
        count = shape[axis] or x.shape[axis]
        x = (
            nearest(x, axis, count, True)
            if closest
            else linear(x, axis, grid(x.shape[axis], count, sampling_mode, context))
        )
    return x


@op()
def upsample_bilinear(
    x: Tensor,
    context: Context,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Linear interpolation of the last two axes, from n to m = ⌊n·factor⌋.

    The points are those of STRICT_ALIGN_CORNERS, UNALIGN_CORNERS (half a pixel) or DEFAULT (neither).
    """
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    if half and align_corners:
        raise context.unsupported("half_pixel_centers with align_corners")
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT"
    height, width = math.floor(x.shape[-2] * scale_factor_height), math.floor(x.shape[-1] * scale_factor_width)
    return _bilinear(x, height, width, mode, context)


@op()
def resize_bilinear(
    x: Tensor,
    context: Context,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Linear interpolation of the last two axes on the grid of a sampling mode."""
    return _bilinear(x, target_size_height, target_size_width, sampling_mode, context)


@op(moves_data=True)
def crop(x: Tensor, crop_height: list[int], crop_width: list[int], context: Context) -> Tensor:
    """x without some rows at the top and bottom and some columns at the left and right."""
    for axis, (before, after) in ((-2, crop_height), (-1, crop_width)):
        size = x.shape[axis] - before - after
        if min(before, after, size) < 0:
            raise context.unsupported(f"{before} and {after} elements off an axis of {x.shape[axis]}")
        x = x.narrow(axis, before, size)
    return x
