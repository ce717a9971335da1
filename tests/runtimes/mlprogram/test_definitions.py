"""Operations that coremltools only defines in words, on random shapes and attributes, against plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtimes.mlprogram import cases_images as images
from tests.runtimes.mlprogram import reference as ref
from tests.runtimes.mlprogram.direct import evaluate
from tests.runtimes.mlprogram.drawing import Draw, integers, numbers, shape

Array = np.ndarray
Defined = tuple[str, dict[str, Any], Array]
_UPDATES: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "max": max,
    "min": min,
    "update": lambda a, b: b,
}


def pooling(draw: Draw) -> Defined:
    """Windows of images."""
    kind = draw(st.sampled_from(["max_pool", "avg_pool"]))
    kernel, strides = shape(draw, 2, 3), shape(draw, 2, 3)
    pad = [draw(st.integers(0, size // 2)) for size in kernel for _ in range(2)]
    x = numbers(draw, *shape(draw, 2, 3), *(size + 3 for size in shape(draw, 2)))
    attributes = {"x": x, "kernel_sizes": kernel, "strides": strides, "pad_type": "custom", "pad": pad}
    exclude = kind == "avg_pool" and pad[0::2] == pad[1::2] and draw(st.booleans())
    if kind == "avg_pool":
        attributes["exclude_padding_from_average"] = exclude
    return kind, attributes, ref.pool(x, kernel, strides, pad, kind[:3], exclude)


def statistics(draw: Draw) -> Defined:
    """Batch and instance norms."""
    x = numbers(draw, *(size + 1 for size in shape(draw, draw(st.integers(3, 4)))))
    gamma, beta = numbers(draw, x.shape[1]), numbers(draw, x.shape[1])
    if draw(st.booleans()):
        attributes = {"x": x, "gamma": gamma, "beta": beta, "epsilon": 0.01}
        return "instance_norm", attributes, ref.instance_norm(x, gamma, beta, 0.01)
    mean, variance = numbers(draw, x.shape[1]), np.abs(numbers(draw, x.shape[1])) + np.float32(0.1)
    attributes = {"x": x, "mean": mean, "variance": variance, "gamma": gamma, "beta": beta, "epsilon": 0.01}
    return "batch_norm", attributes, ref.batch_norm(x, mean, variance, gamma, beta, 0.01)


def scattering(draw: Draw) -> Defined:
    """Writing at indices, one element after the other."""
    kind = draw(st.sampled_from(["scatter", "scatter_nd", "scatter_along_axis"]))
    mode = draw(st.sampled_from(sorted(_UPDATES)))
    sizes = [size + 1 for size in shape(draw, 2)]
    data = numbers(draw, *sizes)
    count = draw(st.integers(1, sizes[0])) if mode == "update" else draw(st.integers(1, 4))
    rows = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).permutation(sizes[0])
    rows = rows[:count] if mode == "update" else integers(draw, 0, sizes[0], count)
    updates = numbers(draw, len(rows), sizes[1])
    updates += np.copysign(np.float32(0.2), updates)
    expected = data.astype(np.float64)
    for row, update in zip(rows, updates, strict=True):
        expected[row] = [_UPDATES[mode](a, b) for a, b in zip(expected[row], update.astype(np.float64), strict=True)]
    indices = {
        "scatter": rows,
        "scatter_nd": rows[:, None],
        "scatter_along_axis": np.repeat(rows[:, None], sizes[1], 1),
    }[kind].astype(np.int32)
    axis = {} if kind == "scatter_nd" else {"axis": 0}
    return kind, {"data": data, "indices": indices, "updates": updates, "mode": mode, **axis}, expected


def points(draw: Draw) -> Defined:
    """Gathers by coordinates, and one-hot vectors."""
    sizes = shape(draw, 3)
    if draw(st.booleans()):
        depth = draw(st.integers(1, 3))
        x = numbers(draw, *sizes)
        indices = np.stack([integers(draw, 0, size, 5) for size in sizes[:depth]], -1)
        return "gather_nd", {"x": x, "indices": indices}, x[tuple(indices.T)]
    size = draw(st.integers(1, 5))
    indices = integers(draw, 0, size, *sizes)
    axis = draw(st.integers(-1, 2))
    expected = np.moveaxis(np.where(np.eye(size, dtype=bool)[indices], 3.0, -1.0), -1, axis)
    attributes = {"indices": indices, "one_hot_vector_size": size, "axis": axis, "on_value": 3.0, "off_value": -1.0}
    return "one_hot", attributes, expected


def sizes_of_images(draw: Draw) -> Defined:
    """Resizing."""
    x = numbers(draw, *shape(draw, 2, 3), *(size + 1 for size in shape(draw, 2)))
    up, across = shape(draw, 2, 3)
    height, width = x.shape[2] * up, x.shape[3] * across
    nearest = x.repeat(up, 2).repeat(across, 3)
    kind = draw(st.sampled_from(["nearest", "bilinear"]))
    target = {"x": x, "target_size_height": height, "target_size_width": width}
    factors = {"x": x, "scale_factor_height": float(up), "scale_factor_width": float(across)}
    general = {"x": x, "shape": [1, height, width], "resized_dims": 2}
    form = draw(st.integers(0, 2))
    if kind == "nearest":
        general["interpolation_mode"] = "NEAREST_NEIGHBOR"
        names = ("resize_nearest_neighbor", "upsample_nearest_neighbor", "resize")
        return names[form], (target, factors, general)[form], nearest
    align = draw(st.booleans()) and height > 1 and width > 1
    mode = {"sampling_mode": "STRICT_ALIGN_CORNERS" if align else "UNALIGN_CORNERS"}
    names = ("resize_bilinear", "upsample_bilinear", "resize")
    attributes = (target | mode, factors | {"align_corners": align}, general | mode)[form]
    return names[form], attributes, ref.bilinear(x, height, width, align)


def grids(draw: Draw) -> Defined:
    """Resizing to any size, by every mode."""
    x = numbers(draw, *shape(draw, 2, 3), *shape(draw, 2, 6))
    height, width = shape(draw, 2, 9)
    mode = draw(st.sampled_from(images.MODES))
    target = {"x": x, "target_size_height": height, "target_size_width": width, "sampling_mode": mode}
    return "resize_bilinear", target, images.on_grid(x, mode, height, width)


def kept_sizes(draw: Draw) -> Defined:
    """Windows with the padding that keeps ⌈n/s⌉ elements."""
    kind = draw(st.sampled_from(["max_pool", "avg_pool"]))
    kernel, strides, lower = shape(draw, 2, 4), shape(draw, 2, 4), draw(st.booleans())
    x = numbers(draw, *shape(draw, 2, 3), *shape(draw, 2, 7))
    pads = [images.same(n, k, s, lower) for n, k, s in zip(x.shape[2:], kernel, strides, strict=True)]
    attributes = {"x": x, "kernel_sizes": kernel, "strides": strides, "pad_type": "same_lower" if lower else "same"}
    exclude = kind == "avg_pool" and draw(st.booleans())
    if exclude:
        attributes["exclude_padding_from_average"] = True
    return kind, attributes, ref.pool(x, kernel, strides, [n for pair in pads for n in pair], kind[:3], exclude)


def pixels(draw: Draw) -> Defined:
    """Channels to pixels and back."""
    n, c, h, w = shape(draw, 4, 3)
    factor = draw(st.integers(1, 3))
    x = numbers(draw, n, c * factor**2, h, w)
    shuffled = ref.pixel_shuffle(x, factor)
    if draw(st.booleans()):
        return "pixel_shuffle", {"x": x, "upscale_factor": factor}, shuffled
    return "pixel_unshuffle", {"x": shuffled, "downscale_factor": factor}, x


def simple(draw: Draw) -> Defined:
    """SiLU and the inverse of quantisation."""
    x = numbers(draw, *shape(draw, 3))
    if draw(st.booleans()):
        return "silu", {"x": x}, x / (1 + np.exp(-x.astype(np.float64)))
    axis = draw(st.integers(-3, 2))
    data = integers(draw, -128, 128, *x.shape).astype(np.int8)
    scale, zero = numbers(draw, x.shape[axis]), integers(draw, -128, 128, x.shape[axis]).astype(np.int8)
    along = [x.shape[i] if i == axis % 3 else 1 for i in range(3)]
    expected = (data.astype(np.float64) - zero.reshape(along)) * scale.reshape(along)
    return "dequantize", {"input": data, "scale": scale, "zero_point": zero, "axis": axis}, expected


KINDS = {
    "avg_pool",
    "max_pool",
    "batch_norm",
    "instance_norm",
    "scatter",
    "scatter_nd",
    "scatter_along_axis",
    "gather_nd",
    "one_hot",
    "resize",
    "resize_bilinear",
    "resize_nearest_neighbor",
    "upsample_bilinear",
    "upsample_nearest_neighbor",
    "pixel_shuffle",
    "pixel_unshuffle",
    "silu",
    "dequantize",
}
"""The operation types that the functions above define."""
DEFINITIONS = (pooling, kept_sizes, statistics, scattering, points, sizes_of_images, grids, pixels, simple)


@pytest.mark.parametrize("define", DEFINITIONS, ids=lambda define: define.__name__)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_written_definition_gives_the_same(define: Callable[[Any], Defined], data: st.DataObject) -> None:
    kind, attributes, expected = define(data.draw)
    assert kind in KINDS
    (actual,) = evaluate(kind, attributes, 17, [expected.astype(np.float32)])
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
