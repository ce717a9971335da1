"""Cases of operations that write into tensors, create them, or compute with eight bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.runtimes.mlprogram import reference as ref
from tests.runtimes.mlprogram.cases import IOS17, IOS18, Array, Case

_RANDOM = np.random.default_rng(1)


def _x(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def convolutions() -> list[Case]:
    """Convolution and its transpose; random attributes are in `test_operations_property`."""
    x, weight, turned = _x(1, 4, 5, 6), _x(6, 2, 3, 2), _x(4, 3, 2, 3)
    attributes = {"strides": [2, 1], "pad": [1, 0, 1, 1], "dilations": [1, 2]}
    expected = ref.conv(x, weight, [2, 1], [1, 0, 1, 1], [1, 2], 2)
    steps = {"strides": [2, 1], "pad": [0, 0, 0, 0], "dilations": [1, 1]}
    wanted = ref.conv_transpose(x, turned, [2, 1], [0, 0, 0, 0], [1, 1])

    def convolved(mb: Any, x: Any) -> Any:
        return mb.conv(x=x, weight=weight, pad_type="custom", groups=2, **attributes)

    return [
        Case("conv", [x], convolved, expected),
        Case("conv_transpose", [x], lambda mb, x: mb.conv_transpose(x=x, weight=turned, **steps), wanted),
    ]


def writing() -> list[Case]:
    """Scatters, and writing into a slice."""
    data, updates = _x(4, 3), _x(2, 3)
    rows = np.array([2, 0], np.int32)
    written, added = data.copy(), data.copy()
    written[rows] = updates
    added[rows] += updates

    def rows_written(mb: Any, d: Any, i: Any, u: Any) -> Any:
        return mb.scatter(data=d, indices=i, updates=u, mode="update")

    cases = [
        Case("scatter", [data, rows, updates], rows_written, written),
        Case(
            "scatter_nd",
            [data, rows[:, None], updates],
            lambda mb, d, i, u: mb.scatter_nd(data=d, indices=i, updates=u, mode="update"),
            written,
        ),
        Case(
            "scatter_along_axis",
            [data, np.repeat(rows[:, None], 3, 1), updates],
            lambda mb, d, i, u: mb.scatter_along_axis(data=d, indices=i, updates=u, axis=0, mode="add"),
            added,
        ),
    ]

    def update(mb: Any, x: Any, u: Any) -> Any:
        return mb.slice_update(x=x, update=u, begin=[0, 0], end=[4, 0], stride=[2, 1], end_mask=[False, True])

    cases.append(Case("slice_update", [data, updates], update, targets=IOS18))

    def lifted(mb: Any, x: Any) -> Any:
        return mb.cast(x=mb.non_zero(x=mb.cast(x=x, dtype="bool")), dtype="fp32")

    cases.append(Case("non_zero", [np.array([[1, 0], [2, 3]], np.int32)], lifted, np.array([[0, 0], [1, 0], [1, 1]])))
    return cases


def creation() -> list[Case]:
    """Constants and ranges of a size known at run time only."""

    def filled(mb: Any, x: Any) -> Any:
        return mb.add(x=mb.fill(shape=mb.shape(x=x), value=2.5), y=x)

    def ranged(mb: Any, n: Any) -> Any:
        return mb.cast(x=mb.range_1d(start=1, end=mb.squeeze(x=n, axes=[0]), step=3), dtype="fp32")

    x = _x(2, 3)
    return [
        Case("fill", [x], filled, x + np.float32(2.5)),
        Case("range_1d", [np.array([11], np.int32)], ranged, np.arange(1, 11, 3)),
    ]


def eight_bits() -> list[Case]:
    """Quantised activations, and a resize whose size is an argument."""
    x = 2 * _x(2, 3, 4)
    scales, zeros = np.array([0.1, 0.02, 0.3], np.float32), np.array([-3, 0, 7], np.int8)

    def there_and_back(mb: Any, x: Any) -> Any:
        whole = mb.quantize(input=x, scale=scales, zero_point=zeros, axis=1, output_dtype="int8")
        return mb.dequantize(input=whole, scale=scales, zero_point=zeros, axis=1)

    whole = np.clip(np.rint(x / scales[:, None]) + zeros[:, None], -128, 127)
    expected = (whole - zeros[:, None]) * scales[:, None]

    def unsigned(mb: Any, x: Any) -> Any:
        return mb.dequantize(input=mb.quantize(input=x, scale=0.02, output_dtype="uint8"), scale=0.02)

    image = _x(1, 2, 3, 4)

    def resized(mb: Any, x: Any) -> Any:
        return mb.resize(x=x, shape=[6, 0], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR")

    def softplus(mb: Any, x: Any) -> Any:
        return mb.softplus_parametric(x=x, alpha=scales, beta=-scales)

    return [
        Case("quantize", [x], there_and_back, expected, IOS17),
        Case("quantize_uint8", [x], unsigned, np.clip(np.rint(x / np.float32(0.02)), 0, 255) * 0.02, IOS17),
        Case("resize", [image], resized, image.repeat(2, 2), IOS17),
        Case("softplus_parametric", [x[..., None]], softplus),
    ]


FAMILIES = {"convolutions": convolutions, "writing": writing, "creation": creation, "eight_bits": eight_bits}
