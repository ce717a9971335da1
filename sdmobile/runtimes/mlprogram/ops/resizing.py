"""Changes of the spatial size."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from sdmobile.runtimes.mlprogram.ops.registry import Context, op


@op(moves_data=True)
def upsample_nearest_neighbor(
    x: Tensor, context: Context, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Tensor:
    """Repeats the elements of the last two axes; only whole factors are defined without ambiguity."""
    factors = (scale_factor_height, scale_factor_width)
    if any(factor != int(factor) or factor < 1 for factor in factors):
        raise context.unsupported(f"scale factors {factors}")
    return _repeat(x, int(scale_factor_height), int(scale_factor_width))


@op(moves_data=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int, context: Context) -> Tensor:
    """Repeats the elements of the last two axes up to a whole multiple of their size."""
    height, width = x.shape[-2:]
    if target_size_height % height or target_size_width % width:
        raise context.unsupported(f"{[height, width]} to {[target_size_height, target_size_width]}")
    return _repeat(x, target_size_height // height, target_size_width // width)


@op()
def resize(
    x: Tensor,
    shape: list[int],
    resized_dims: int,
    context: Context,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last `resized_dims` axes get the last sizes of `shape` (0: as before) by one of the two ways of resizing."""
    if resized_dims != 2:
        raise context.unsupported(f"resized_dims {resized_dims}")
    height, width = (size or old for size, old in zip(shape[-2:], x.shape[-2:], strict=True))
    if interpolation_mode == "LINEAR":
        return resize_bilinear(x, context, height, width, sampling_mode)
    if interpolation_mode == "NEAREST_NEIGHBOR" and sampling_mode in ("DEFAULT", "UNALIGN_CORNERS"):
        return resize_nearest_neighbor(x, height, width, context)
    raise context.unsupported(f"interpolation_mode {interpolation_mode} with sampling_mode {sampling_mode}")


def _repeat(x: Tensor, height: int, width: int) -> Tensor:
    leading, (h, w) = x.shape[:-2], x.shape[-2:]
    repeated = x.reshape(*leading, h, 1, w, 1).expand(*leading, h, height, w, width)
    return repeated.reshape(*leading, h * height, w * width)


@op()
def upsample_bilinear(
    x: Tensor,
    context: Context,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Linear interpolation at i·(n−1)/(m−1) (corners aligned) or (i + ½)·n/m − ½, from n to m = ⌊n·factor⌋."""
    if half_pixel_centers is not None and half_pixel_centers == align_corners:
        raise context.unsupported(f"half_pixel_centers {half_pixel_centers} with align_corners {align_corners}")
    size = [math.floor(x.shape[-2] * scale_factor_height), math.floor(x.shape[-1] * scale_factor_width)]
    return _bilinear(x, size, align_corners)


@op()
def resize_bilinear(
    x: Tensor,
    context: Context,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Linear interpolation with the sampling modes STRICT_ALIGN_CORNERS and UNALIGN_CORNERS."""
    if sampling_mode not in ("STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS"):
        raise context.unsupported(f"sampling_mode {sampling_mode}")
    size = [target_size_height, target_size_width]
    return _bilinear(x, size, align_corners=sampling_mode == "STRICT_ALIGN_CORNERS")


def _bilinear(x: Tensor, size: list[int], align_corners: bool) -> Tensor:
    images = x.reshape(1, -1, *x.shape[-2:])
    y = F.interpolate(images, size=size, mode="bilinear", align_corners=align_corners)
    return y.reshape(*x.shape[:-2], *size)


@op(moves_data=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """[n, C·f², H, W] to [n, C, H·f, W·f], channels in the order (C, row, column)."""
    return F.pixel_shuffle(x, upscale_factor)


@op(moves_data=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """[n, C, H, W] to [n, C·f², H/f, W/f], the inverse of pixel_shuffle."""
    return F.pixel_unshuffle(x, downscale_factor)
