"""Cases of images sampled on grids and at points, padded windows, and elements moved between axes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from tests.runtimes.mlprogram import reference as ref
from tests.runtimes.mlprogram.cases import IOS17, IOS18, Array, Case

_RANDOM = np.random.default_rng(4)
MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def _x(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def points(mode: str, n: float, m: int) -> Array:
    """The grid points of the documentation, one after the other."""
    if mode == "ALIGN_CORNERS" and m == 1:
        return np.array([(n - 1) / 2])
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        return np.linspace(0, n - 1, m)
    if mode == "DEFAULT":
        return np.minimum(n - 1, np.linspace(0, n - n / m, m))
    if mode == "OFFSET_CORNERS":
        delta = max(1, n - 1) / m
        return np.minimum(n - 1, np.linspace(delta / 2, delta / 2 + (m - 1) * delta, m))
    return np.array([min(n - 1, max(0, i * n / m + 0.5 * n / m - 0.5)) for i in range(m)])


def sampled(x: Array, axis: int, where: Array) -> Array:
    """Linear interpolation of an axis by NumPy's own function."""
    return np.apply_along_axis(lambda row: np.interp(where, np.arange(len(row)), row), axis, x)


def on_grid(x: Array, mode: str, height: int, width: int) -> Array:
    """Returns images resized by the points of a mode."""
    rows = sampled(x, -2, points(mode, x.shape[-2], height))
    return sampled(rows, -1, points(mode, x.shape[-1], width))


def _closest(x: Array, axis: int, m: int, shift: float) -> Array:
    return np.take(x, [int((i + shift) * x.shape[axis] / m) for i in range(m)], axis)


def grids() -> list[Case]:
    """Resizing by all modes, enlarged, reduced and to one row."""
    x = _x(2, 3, 5, 6)
    cases = []
    for mode, (h, w) in itertools.product(MODES, ((8, 3), (1, 13))):
        size = {"target_size_height": h, "target_size_width": w, "sampling_mode": mode}
        expected = on_grid(x, mode, h, w)
        cases.append(Case(f"bilinear_{mode}_{h}", [x], lambda mb, x, s=size: mb.resize_bilinear(x=x, **s), expected))
        general = {"shape": [h, w], "resized_dims": np.uint32(2), "sampling_mode": mode}
        cases.append(Case(f"resize_{mode}_{h}", [x], lambda mb, x, s=general: mb.resize(x=x, **s), expected, IOS17))
    half = {"scale_factor_height": 2.0, "scale_factor_width": 1.7, "align_corners": False, "half_pixel_centers": False}
    cases.append(
        Case("bilinear_corner", [x], lambda mb, x: mb.upsample_bilinear(x=x, **half), on_grid(x, "DEFAULT", 10, 10))
    )
    factors = {"scale_factor_height": 1.5, "scale_factor_width": 0.7}
    floor = _closest(_closest(x, -2, 7, 0), -1, 4, 0)
    cases.append(Case("nearest_part", [x], lambda mb, x: mb.upsample_nearest_neighbor(x=x, **factors), floor))
    middle = _closest(_closest(x, -2, 7, 0.5), -1, 4, 0.5)
    size = {"target_size_height": 7, "target_size_width": 4}
    cases.append(Case("nearest_size", [x], lambda mb, x: mb.resize_nearest_neighbor(x=x, **size), middle))
    near = {"shape": [7, 4], "resized_dims": np.uint32(2), "interpolation_mode": "NEAREST_NEIGHBOR"}
    cases.append(Case("nearest_resize", [x], lambda mb, x: mb.resize(x=x, **near), middle, IOS17))
    cut = {"crop_height": [1, 2], "crop_width": [0, 3]}
    cases.append(Case("crop", [x], lambda mb, x: mb.crop(x=x, **cut), x[..., 1:3, :3]))
    return cases


def _grid_sample(x: Array, grid: Array, mode: str, padding: str, align: bool) -> Array:
    """PyTorch's own, whose reflection is about the centres or the edges of the last pixels as corners are aligned."""
    names = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}
    given = {"mode": mode, "padding_mode": names[padding], "align_corners": align}
    return F.grid_sample(torch.from_numpy(x), torch.from_numpy(grid), **given).numpy()


def _resampled(mode: str, padding: str, align: bool) -> Case:
    x, where = _x(2, 3, 5, 4), (1.7 * _x(2, 6, 3, 2)).clip(-3.9, 3.9)
    where = where.astype(np.float16).astype(np.float32)  # a rounded point may have another nearest element
    fill = 0.75 if padding == "constant" else 0.0
    attributes = {
        "sampling_mode": mode,
        "padding_mode": padding,
        "padding_value": np.float32(fill),
        "coordinates_mode": "normalized_minus_one_to_one",
        "align_corners": align,
    }
    # The border of the extended image has the value that is taken off it.
    expected = _grid_sample(x - np.float32(fill), where, mode, padding, align) + fill
    name = f"resample_{mode}_{padding}_{align}"
    return Case(name, [x, where], lambda mb, x, c: mb.resample(x=x, coordinates=c, **attributes), expected)


def _resampled_at(coordinates: str) -> Case:
    """Points from 0 to 1, or in pixels, turned into those from −1 to 1 for PyTorch."""
    x, where = _x(1, 2, 5, 4), _RANDOM.uniform(-0.5, 1.5, (1, 4, 3, 2)).astype(np.float32)
    size = np.array([3.0, 4.0], np.float32)
    expected = _grid_sample(x, 2 * where - 1, "bilinear", "border", True)
    given = where if coordinates == "normalized_zero_to_one" else where * size
    attributes = {
        "sampling_mode": "bilinear",
        "padding_mode": "border",
        "padding_value": np.float32(0),
        "coordinates_mode": coordinates,
        "align_corners": True,
    }
    build = lambda mb, x, c: mb.resample(x=x, coordinates=c, **attributes)  # noqa: E731
    return Case(f"resample_{coordinates}", [x, given], build, expected)


def _turned() -> Case:
    x, matrix = _x(2, 3, 5, 4), (0.7 * _x(2, 6)).clip(-1, 1)
    grid = F.affine_grid(torch.from_numpy(matrix).reshape(2, 2, 3), [2, 3, 6, 7], align_corners=True)
    attributes = {
        "output_height": 6,
        "output_width": 7,
        "sampling_mode": "bilinear",
        "padding_mode": "constant",
        "padding_value": np.float32(0),
        "coordinates_mode": "normalized_minus_one_to_one",
        "align_corners": True,
    }
    expected = _grid_sample(x, grid.numpy(), "bilinear", "constant", True)
    return Case("affine", [x, matrix], lambda mb, x, m: mb.affine(x=x, transform_matrix=m, **attributes), expected)


def _patch(image: Array, box: Array, mode: str, size: tuple[int, int], outside: float) -> Array:
    """A box (top, left, bottom, right) of an image [C, H, W]."""
    for axis in range(2):
        first, last = float(box[axis]), float(box[axis + 2])
        where = first + points(mode, last - first + 1, size[axis])
        beyond = (where < 0) | (where > image.shape[axis + 1] - 1)
        image = np.where(
            beyond.reshape((1, -1, 1)[:3] if axis == 0 else (1, 1, -1)), outside, sampled(image, axis + 1, where)
        )
    return image


def boxes() -> list[Case]:
    """Boxes of images: the three forms of the argument, and the modes whose points in a box are defined."""
    x, size = _x(2, 3, 6, 7), {"target_height": 3, "target_width": 2}
    given = np.array([[0.5, 1, 4.25, 3], [3, 5, 1, 2.5], [1, 2, 7.5, 4]], np.float32)
    cases = []
    for mode in MODES[:4]:
        chosen = given if "ALIGN_CORNERS" in mode else np.sort(given.reshape(-1, 2, 2), 1).reshape(-1, 4)
        every = np.stack([np.stack([_patch(image, box, mode, (3, 2), 0.5) for image in x]) for box in chosen])
        common = {**size, "sampling_mode": mode, "pad_value": np.float32(0.5)}
        roi = chosen.reshape(3, 1, 4, 1, 1)
        build = lambda mb, x, r, a=common: mb.crop_resize(x=x, roi=r, **a)  # noqa: E731
        cases.append(Case(f"roi_{mode}", [x, roi], build, every, ("iOS16",)))
        which = np.array([1, 0, 1], np.int32)
        build = lambda mb, x, b, i, a=common: mb.crop_resize(x=x, boxes=b, box_indices=i, **a)  # noqa: E731
        cases.append(Case(f"boxes_{mode}", [x, chosen, which], build, every[range(3), which], IOS17))
    # One image, its index in the box; a part of the image from 0 to 1, around a centre.
    image, index = x[:1], np.zeros((3, 1), np.float32)
    centred = {**size, "normalized_coordinates": True, "box_coordinate_mode": "CENTER_SIZE_WIDTH_FIRST"}
    middle = np.array([[0.5, 0.25, 0.5, 0.25], [0.25, 0.5, 0.5, 0.5], [0.5, 0.5, 1, 1]], np.float32)
    low, high = (middle[:, :2] - middle[:, 2:] / 2)[:, ::-1], (middle[:, :2] + middle[:, 2:] / 2)[:, ::-1]
    corners = np.concatenate([low, high], 1) * [5, 6, 5, 6]
    expected = np.stack([_patch(image[0], box, "ALIGN_CORNERS", (3, 2), 0.0)[None] for box in corners])
    indexed = np.concatenate([index, middle], 1).reshape(3, 1, 5, 1, 1)
    build = lambda mb, x, r: mb.crop_resize(x=x, roi=r, sampling_mode="ALIGN_CORNERS", **centred)  # noqa: E731
    return [*cases, Case("roi_index", [image, indexed], build, expected, ("iOS16",))]


def places() -> list[Case]:
    """Sampling at given points."""
    cases = [_resampled(mode, "constant", align) for mode in ("bilinear", "nearest") for align in (False, True)]
    cases += [_resampled(mode, "border", align) for mode in ("bilinear", "nearest") for align in (False, True)]
    cases += [_resampled(mode, "reflection", True) for mode in ("bilinear", "nearest")]
    cases += [_resampled(mode, "symmetric", False) for mode in ("bilinear", "nearest")]
    return [*cases, *(_resampled_at(mode) for mode in ("normalized_zero_to_one", "unnormalized")), _turned()]


def same(n: int, k: int, s: int, lower: bool) -> list[int]:
    """Returns the elements before and after an axis that keep ⌈n/s⌉ windows."""
    total = max(0, (int(np.ceil(n / s)) - 1) * s + k - n)
    pair = [total // 2, total - total // 2]
    return pair[::-1] if lower else pair


def padded() -> list[Case]:
    """Windows and convolutions that keep the size, with strides and even kernels."""
    x, weight, turned = _x(2, 4, 7, 6), _x(6, 4, 4, 3), _x(4, 3, 4, 3)
    cases = []
    for lower, strides in itertools.product((False, True), ((1, 1), (2, 3))):
        pad = [*same(7, 4, strides[0], lower), *same(6, 3, strides[1], lower)]
        kept = {"strides": list(strides), "pad_type": "same_lower" if lower else "same"}
        name = f"{strides}_{lower}"
        expected = ref.conv(x, weight, strides, pad, [1, 1], 1)
        cases.append(Case(f"conv_{name}", [x], lambda mb, x, a=kept: mb.conv(x=x, weight=weight, **a), expected))
        window = {**kept, "kernel_sizes": [4, 3]}
        for kind in ("max", "avg"):
            build = lambda mb, x, k=kind, a=window: getattr(mb, f"{k}_pool")(x=x, **a)  # noqa: E731
            cases.append(Case(f"{kind}_{name}", [x], build, ref.pool(x, [4, 3], strides, pad, kind)))
        build = lambda mb, x, a=window: mb.avg_pool(x=x, exclude_padding_from_average=True, **a)  # noqa: E731
        cases.append(Case(f"inside_{name}", [x], build, ref.pool(x, [4, 3], strides, pad, "avg", exclude=True)))
        squares = np.sqrt(12 * ref.pool(x.astype(np.float64) ** 2, [4, 3], strides, pad, "avg"))
        cases.append(Case(f"l2_{name}", [x], lambda mb, x, a=window: mb.l2_pool(x=x, **a), squares))
    back = ref.conv_transpose(x, turned, [2, 3], [1, 1, 0, 0], [1, 1])
    kept = {"strides": [2, 3], "pad_type": "same"}
    cases.append(Case("conv_transpose", [x], lambda mb, x: mb.conv_transpose(x=x, weight=turned, **kept), back))
    for size in (2, 3):
        torch_norm = torch.nn.LocalResponseNorm(size, 0.5, 0.8, 2.0)(torch.from_numpy(x)).numpy()
        given = {"size": size, "alpha": 0.5, "beta": 0.8, "k": 2.0}
        cases.append(Case(f"lrn_{size}", [x], lambda mb, x, a=given: mb.local_response_norm(x=x, **a), torch_norm))
    return cases


def moved() -> list[Case]:
    """Blocks, windows, sequences and shapes, element by element."""
    x = _x(2, 12, 3, 4)
    wide = np.zeros((2, 3, 6, 8), np.float32)
    for n, row, column, c in itertools.product(range(2), range(2), range(2), range(3)):
        wide[n, c, row::2, column::2] = x[n, (row * 2 + column) * 3 + c]
    cases = [
        Case("depth_to_space", [x], lambda mb, x: mb.depth_to_space(x=x, block_size=2), wide),
        Case("space_to_depth", [wide], lambda mb, x: mb.space_to_depth(x=x, block_size=2), x),
    ]
    image, batch = _x(2, 3, 5, 4), np.zeros((12, 3, 3, 2), np.float32)
    larger = np.pad(image, ((0, 0), (0, 0), (1, 0), (0, 2)))
    for row, column, n in itertools.product(range(2), range(3), range(2)):
        batch[(row * 3 + column) * 2 + n] = larger[n, :, row::2, column::3]
    there = {"block_shape": [2, 3], "paddings": [[1, 0], [0, 2]]}
    back = {"block_shape": [2, 3], "crops": [[1, 0], [0, 2]]}
    cases += [
        Case("space_to_batch", [image], lambda mb, x: mb.space_to_batch(x=x, **there), batch),
        Case("batch_to_space", [batch], lambda mb, x: mb.batch_to_space(x=x, **back), image),
    ]
    windows = np.stack([image[:, :, i : i + 3] for i in (0, 2)], 2)
    cases.append(Case("windows", [image], lambda mb, x: mb.sliding_windows(x=x, axis=-2, size=3, stride=2), windows))
    turned, lengths = image.copy(), np.array([3, 0, 4], np.int32)
    for c, length in enumerate(lengths):
        turned[:, c, :, :length] = image[:, c, :, :length][..., ::-1]
    axes = {"seq_axis": 3, "batch_axis": 1}
    reverse = lambda mb, x, n: mb.reverse_sequence(x=x, lengths=n, **axes)  # noqa: E731
    cases.append(Case("reverse_sequence", [image, lengths], reverse, turned))

    def alike(mb: Any, x: Any, a: Any, b: Any) -> Any:
        return mb.reshape_like(x=x, ref_tensors=(a, b), begins=(0, 1), ends=(2, 0), end_masks=(False, True))

    likes = [_x(2, 3, 9), _x(7, 4, 5)]
    cases.append(Case("reshape_like", [image, *likes], alike, image.reshape(2, 3, 4, 5)))
    return [*cases, *_picked(image)]


def _picked(image: Array) -> list[Case]:
    """Slices that walk backwards to an open side, gathers per batch, the last of two updates, whole quotients."""
    walk = {"begin": [0, 2, 3, 0], "end": [2, 0, 0, 0], "stride": [1, -1, -2, -1]}
    masks = {"begin_mask": [False, False, False, True], "end_mask": [False, True, False, True]}
    expected = image[0:2, 2::-1, 3:0:-2, ::-1]
    cases = [Case("slice_back", [image], lambda mb, x: mb.slice_by_index(x=x, **walk, **masks), expected)]
    written, update = image.copy(), _x(*expected.shape)
    written[0:2, 2::-1, 3:0:-2, ::-1] = update
    build = lambda mb, x, u: mb.slice_update(x=x, update=u, **walk, **masks)  # noqa: E731
    cases.append(Case("update_back", [image, update], build, written, IOS18))
    places = np.array([[[0, 1], [4, 3]], [[2, 2], [1, 0]], [[3, 0], [0, 0]]], np.int32)[None].repeat(2, 0)
    near = np.stack([[[image[n, c, i, j] for i, j in places[n, c]] for c in range(3)] for n in range(2)])
    build = lambda mb, x, i: mb.gather_nd(x=x, indices=i, batch_dims=2)  # noqa: E731
    cases.append(Case("gather_nd_batch", [image, places], build, near))
    data, again = _x(2, 3), np.array([[1, 0, 1], [1, 1, 0]], np.int32)
    new, last = _x(2, 3), data.copy()
    for row, column in itertools.product(range(2), range(3)):
        last[again[row, column], column] = new[row, column]
    build = lambda mb, d, i, u: mb.scatter_along_axis(data=d, indices=i, updates=u, axis=0, mode="update")  # noqa: E731
    cases.append(Case("scatter_twice", [data, again, new], build, last))
    a, b = np.array([-7, 7, -8, 9], np.int32), np.array([2, -2, 3, 4], np.int32)
    build = lambda mb, a, b: mb.cast(x=mb.real_div(x=a, y=b), dtype="fp32")  # noqa: E731
    return [*cases, Case("real_div_int", [a, b], build, np.array([-3, -3, -2, 2]))]


FAMILIES = {"grids": grids, "boxes": boxes, "places": places, "padded": padded, "moved": moved}
