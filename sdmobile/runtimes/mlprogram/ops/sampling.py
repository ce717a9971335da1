"""Images at given points: resampling, affine transforms, boxes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.runtimes.mlprogram.ops.registry import Context, op
from sdmobile.runtimes.mlprogram.ops.resizing import grid, linear


def _pixels(coordinates: Tensor, size: int, mode: str, align_corners: bool, context: Context) -> Tensor:
    """Returns coordinates of one axis in pixels; the normalised ones reach from centre to centre, or edge to edge."""
    if mode == "unnormalized":
        return coordinates
    if mode == "normalized_minus_one_to_one":
        coordinates = (coordinates + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise context.unsupported(f"coordinates_mode {mode}")
    return coordinates * (size - 1) if align_corners else coordinates * size - 0.5


def _reflected(points: Tensor, size: int, first: float) -> Tensor:
    """Folds points into the axis at `first` and at its mirror image on the other side."""
    length = size - 1 - 2 * first
    if length == 0:
        return torch.zeros_like(points)
    offset = (points - first).remainder(2 * length)
    return torch.where(offset > length, 2 * length - offset, offset) + first


_FOLD: dict[str, Callable[[Tensor, int], Tensor]] = {
    "constant": lambda points, size: points,
    "border": lambda points, size: points.clamp(0, size - 1),
    "reflection": lambda points, size: _reflected(points, size, 0.0),
    "symmetric": lambda points, size: _reflected(points, size, -0.5).clamp(0, size - 1),
}


@op()
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
    context: Context,
) -> Tensor:
    """x [n, C, H, W] at `coordinates` [n, H′, W′, (x, y)], the nearest pixel (halves to even) or bilinear.

    Outside, the image goes on with a value, its border, or its reflection without ("reflection") or with
    ("symmetric") the border repeated.
    """
    if padding_mode not in _FOLD or sampling_mode not in ("bilinear", "nearest"):
        raise context.unsupported(f"sampling_mode {sampling_mode} with padding_mode {padding_mode}")
    sizes = (x.shape[3], x.shape[2])
    columns, rows = (
        _FOLD[padding_mode](_pixels(part.float(), size, coordinates_mode, align_corners, context), size)
        for part, size in zip(coordinates.unbind(-1), sizes, strict=True)
    )
    return _at_points(x, rows, columns, sampling_mode, padding_value)


@op()
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
    context: Context,
) -> Tensor:
    """x [n, C, H, W] at (a₀x + a₁y + a₂, b₀x + b₁y + b₂) for the pixels (x, y) of the output; both from −1 to 1."""
    given = (sampling_mode.lower(), padding_mode.lower(), coordinates_mode.lower(), align_corners)
    if given != ("bilinear", "constant", "normalized_minus_one_to_one", True):
        raise context.unsupported(f"the modes {given}")
    matrix = transform_matrix.reshape(-1, 2, 3).expand(x.shape[0], 2, 3)
    points = F.affine_grid(matrix, [*x.shape[:2], output_height, output_width], align_corners=True)
    columns, rows = (
        _pixels(part, size, coordinates_mode, True, context)
        for part, size in zip(points.unbind(-1), (x.shape[3], x.shape[2]), strict=True)
    )
    return _at_points(x, rows, columns, "bilinear", padding_value)


def _at_points(x: Tensor, rows: Tensor, columns: Tensor, mode: str, outside: float) -> Tensor:
    """Returns x [n, C, H, W] at points in pixels [n, H′, W′]; a pixel outside has a value of its own."""
    if mode == "nearest":
        return _pixel(x, rows.round(), columns.round(), outside)
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    upper, lower = (
        torch.lerp(_pixel(x, row, left, outside), _pixel(x, row, left + 1, outside), right) for row in (top, top + 1)
    )
    return torch.lerp(upper, lower, down)


def _pixel(x: Tensor, rows: Tensor, columns: Tensor, outside: float) -> Tensor:
    height, width = x.shape[2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = rows.clamp(0, height - 1).to(torch.int64) * width + columns.clamp(0, width - 1).to(torch.int64)
    values = x.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, x.shape[1], -1))
    values = values.reshape(*x.shape[:2], *rows.shape[1:])
    return torch.where(inside[:, None], values, torch.tensor(outside))


@op()
def crop_resize(
    x: Tensor,
    context: Context,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float | None = None,
) -> Tensor:
    """Boxes of images x [B, C, H, W], each sampled on the grid of a sampling mode between its ends.

    Before iOS 17 the boxes are `roi` [N, 1, 4, 1, 1], of every image: [N, B, C, H′, W′]; or [N, 1, 5, 1, 1] with the
    index of an image in front: [N, 1, C, H′, W′]. From it on they are `boxes` [N, 4] of the images `box_indices`:
    [N, C, H′, W′]. A point outside of an image is `pad_value`, which iOS 15 does not have.
    """
    if roi is not None:
        boxes = roi.reshape(roi.shape[0], -1)
    if boxes is None:
        raise context.unsupported("neither roi nor boxes")
    number = len(boxes)
    if boxes.shape[1] == 5:
        box_indices, boxes = boxes[:, 0], boxes[:, 1:]
    elif box_indices is None and roi is None:
        box_indices = torch.arange(number)
    images = [x] * number if box_indices is None else [_image(x, int(i), context) for i in box_indices.tolist()]
    scales = [(size - 1 if normalized_coordinates else 1) * spatial_scale for size in x.shape[2:]]
    patches = []
    for image, box in zip(images, boxes.double().tolist(), strict=True):
        ends = _ends(box, box_coordinate_mode, context)
        for axis, count, scale, (first, last) in zip((2, 3), (target_height, target_width), scales, ends, strict=True):
            points = _in_box(first * scale, last * scale, count, sampling_mode, context)
            image = _padded(image, axis, points, pad_value, context)
        patches.append(image)
    return torch.cat(patches) if roi is None else torch.stack(patches)


def _image(x: Tensor, index: int, context: Context) -> Tensor:
    if not 0 <= index < len(x):
        raise context.unsupported(f"a box of image {index} of {len(x)}")
    return x[index][None]


def _ends(box: list[float], mode: str, context: Context) -> tuple[tuple[float, float], tuple[float, float]]:
    """Returns the first and last row, and the first and last column."""
    a, b, c, d = box
    if mode.startswith("CENTER_SIZE_"):
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    elif not mode.startswith("CORNERS_"):
        raise context.unsupported(f"box_coordinate_mode {mode}")
    return ((a, c), (b, d)) if mode.endswith("HEIGHT_FIRST") else ((b, d), (a, c))


def _in_box(first: float, last: float, count: int, mode: str, context: Context) -> Tensor:
    if mode == "UNALIGN_CORNERS" or (last < first and "ALIGN_CORNERS" not in mode):
        raise context.unsupported(f"sampling_mode {mode} in a box from {first} to {last}, whose points are not defined")
    return first + grid(last - first + 1, count, mode, context)


def _padded(x: Tensor, axis: int, points: Tensor, outside: float | None, context: Context) -> Tensor:
    """Returns x at points of an axis, and a value of its own where a point lies outside."""
    beyond = (points < 0) | (points > x.shape[axis] - 1)
    values = linear(x, axis, points)
    if not bool(beyond.any()):
        return values
    if outside is None:
        raise context.unsupported("a box that reaches outside of the image without pad_value")
    shape = [-1 if a == axis else 1 for a in range(x.dim())]
    return torch.where(beyond.reshape(shape), torch.tensor(outside), values)
