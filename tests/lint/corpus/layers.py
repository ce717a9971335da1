"""Convolutions and matrix products."""

from __future__ import annotations

import numpy as np

from tests.lint.corpus.case import Cases, double, label, single
from tests.lint.corpus.graph import Graph, Shape, options

_IMAGE = (1, 8, 8, 8)
_TANH = 4  # the CPU's kernels leave it out


def cases() -> Cases:
    """Yields all cases of this file."""
    yield from _convolutions()
    yield from _depthwise()
    yield from _transposed()
    yield from _fully_connected()
    yield from _batch_matmul()


def _convolutions() -> Cases:
    for stride in (1, 2):
        for dilation in (1, 2):
            yield _conv(
                f"CONV_2D stride {stride} dilation {dilation}",
                strideH=stride,
                strideW=stride,
                dilationHFactor=dilation,
                dilationWFactor=dilation,
            )
    for activation in (1, 3, 4, 5):
        yield _conv(f"CONV_2D fused activation {activation}", fusedActivationFunction=activation)
    for version in (2, 3, 5, 6, 7, 8):
        yield _conv(f"CONV_2D version {version}", version=version)
    yield _conv("CONV_2D valid padding", result=(1, 6, 6, 4), padding=1)
    yield _conv("CONV_2D without bias", bias=False)
    yield _conv("CONV_2D 1x1", kernel=1)
    yield _conv("CONV_2D batch 2", batch=2)
    for channels, outputs, groups in ((8, 4, 2), (8, 8, 2), (8, 16, 2), (16, 16, 4), (16, 16, 2), (8, 8, 8), (6, 6, 3)):
        shape = (1, 8, 8, channels)
        yield single(
            f"CONV_2D {channels} to {outputs} channels in {groups} groups",
            shape,
            "float32",
            lambda g, x, c=channels, o=outputs, n=groups: convolve(g, x, g.weights(o, 3, 3, c // n), (1, 8, 8, o), o),
        )
    yield double(
        "CONV_2D run-time weights", _IMAGE, (4, 3, 3, 8), "float32", lambda g, x, w: convolve(g, x, w, (1, 8, 8, 4))
    )
    yield single(
        "CONV_2D constant input",
        (4, 3, 3, 8),
        "float32",
        lambda g, w: convolve(g, g.weights(*_IMAGE), w, (1, 8, 8, 4)),
    )


def _conv(
    title: str,
    kernel: int = 3,
    batch: int = 1,
    bias: bool = True,
    result: Shape | None = None,
    version: int = 1,
    **fields: int,
):
    size = -(-8 // fields.get("strideH", 1))
    shape = result or (batch, size, size, 4)
    made = options("Conv2D", **{"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, **fields})

    def add(graph: Graph, x: int) -> list[int]:
        inputs = [x, graph.weights(4, kernel, kernel, 8), *([graph.weights(4)] if bias else [])]
        return graph.op("CONV_2D", inputs, shape, version=version, options=made)

    comparable = fields.get("fusedActivationFunction") != _TANH
    return single(title, (batch, *_IMAGE[1:]), "float32", add, comparable)


def convolve(graph: Graph, x: int, weights: int, shape: Shape, outputs: int = 4) -> list[int]:
    """Adds a convolution of stride 1 with a bias."""
    made = options("Conv2D", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    return graph.op("CONV_2D", [x, weights, graph.weights(outputs)], shape, options=made, version=6)


def _depthwise() -> Cases:
    for multiplier in (1, 2):
        for stride in (1, 2):
            made = options(
                "DepthwiseConv2D",
                strideH=stride,
                strideW=stride,
                depthMultiplier=multiplier,
                dilationHFactor=1,
                dilationWFactor=1,
            )
            channels = 8 * multiplier
            size = 8 // stride
            yield single(
                f"DEPTHWISE_CONV_2D multiplier {multiplier} stride {stride}",
                _IMAGE,
                "float32",
                lambda g, x, m=made, c=channels, s=size: g.op(
                    "DEPTHWISE_CONV_2D", [x, g.weights(1, 3, 3, c), g.weights(c)], (1, s, s, c), options=m
                ),
            )
    made = options("DepthwiseConv2D", strideH=1, strideW=1, depthMultiplier=1, dilationHFactor=1, dilationWFactor=1)
    for version in (3, 6, 7):
        yield single(
            f"DEPTHWISE_CONV_2D version {version}",
            _IMAGE,
            "float32",
            lambda g, x, v=version: g.op(
                "DEPTHWISE_CONV_2D", [x, g.weights(1, 3, 3, 8), g.weights(8)], _IMAGE, options=made, version=v
            ),
        )
    yield double(
        "DEPTHWISE_CONV_2D run-time weights",
        _IMAGE,
        (1, 3, 3, 8),
        "float32",
        lambda g, x, w: g.op("DEPTHWISE_CONV_2D", [x, w, g.weights(8)], _IMAGE, options=made),
    )


def _transposed() -> Cases:
    for stride, size in ((1, 8), (2, 16)):
        made = options("TransposeConv", strideH=stride, strideW=stride)
        yield single(
            f"TRANSPOSE_CONV stride {stride}",
            _IMAGE,
            "float32",
            lambda g, x, m=made, s=size: g.op(
                "TRANSPOSE_CONV", [g.const([1, s, s, 4]), g.weights(4, 3, 3, 8), x], (1, s, s, 4), options=m
            ),
        )


def _fully_connected() -> Cases:
    for shape in ((2, 8), (1, 8), (2, 4, 8), (1, 4, 4, 8), (2, 4, 4, 8), (8,)):
        for keep in (True, False):
            rows = int(np.prod(shape)) // 8
            result = (*shape[:-1], 6) if keep else (rows, 6)
            made = options("FullyConnected", keepNumDims=keep)
            yield single(
                f"FULLY_CONNECTED {label(shape)} keep {keep}",
                shape,
                "float32",
                lambda g, x, r=result, m=made: g.op(
                    "FULLY_CONNECTED", [x, g.weights(6, 8), g.weights(6)], r, options=m, version=5
                ),
            )
    for version in (1, 6, 9, 10, 12, 13):
        yield single(
            f"FULLY_CONNECTED version {version}",
            (2, 8),
            "float32",
            lambda g, x, v=version: g.op(
                "FULLY_CONNECTED",
                [x, g.weights(6, 8), g.weights(6)],
                (2, 6),
                options=options("FullyConnected"),
                version=v,
            ),
        )
    for activation in (1, 3, 4, 5):
        made = options("FullyConnected", fusedActivationFunction=activation)
        yield single(
            f"FULLY_CONNECTED fused activation {activation}",
            (2, 8),
            "float32",
            lambda g, x, m=made: g.op("FULLY_CONNECTED", [x, g.weights(6, 8), -1], (2, 6), options=m, version=6),
        )
    made = options("FullyConnected")
    yield double(
        "FULLY_CONNECTED run-time weights",
        (2, 8),
        (6, 8),
        "float32",
        lambda g, x, w: g.op("FULLY_CONNECTED", [x, w, -1], (2, 6), options=made, version=6),
    )
    yield single(
        "FULLY_CONNECTED constant input",
        (6, 8),
        "float32",
        lambda g, w: g.op("FULLY_CONNECTED", [g.weights(2, 8), w, -1], (2, 6), options=made, version=6),
    )


def _batch_matmul() -> Cases:
    shapes: tuple[tuple[Shape, Shape, Shape], ...] = (
        ((4, 8), (8, 6), (4, 6)),
        ((2, 4, 8), (2, 8, 6), (2, 4, 6)),
        ((2, 4, 8), (1, 8, 6), (2, 4, 6)),
        ((1, 2, 4, 8), (1, 2, 8, 6), (1, 2, 4, 6)),
        ((2, 2, 4, 8), (2, 2, 8, 6), (2, 2, 4, 6)),
        ((1, 1, 2, 4, 8), (1, 1, 2, 8, 6), (1, 1, 2, 4, 6)),
    )
    for first, second, result in shapes:
        yield double(
            f"BATCH_MATMUL {label(first)} by {label(second)}",
            first,
            second,
            "float32",
            lambda g, x, y, r=result: g.op("BATCH_MATMUL", [x, y], r, options=options("BatchMatMul")),
        )
        for side in (0, 1):
            shape, other = (second, first) if side == 0 else (first, second)
            yield single(
                f"BATCH_MATMUL {label(first)} by {label(second)}, {'left' if side == 0 else 'right'} constant",
                shape,
                "float32",
                lambda g, x, o=other, s=side, r=result: g.op(
                    "BATCH_MATMUL",
                    [g.weights(*o), x] if s == 0 else [x, g.weights(*o)],
                    r,
                    options=options("BatchMatMul"),
                ),
            )
    for first, second in (
        ((1, 2, 4, 8), (8, 6)),
        ((2, 4, 8), (8, 6)),
        ((1, 2, 4, 8), (1, 1, 8, 6)),
        ((1, 1, 4, 8), (1, 2, 8, 6)),
        ((2, 2, 4, 8), (1, 2, 8, 6)),
        ((1, 4, 8), (2, 8, 6)),
    ):
        result = (*np.broadcast_shapes(first[:-2], second[:-2]), 4, 6)
        yield double(
            f"BATCH_MATMUL batches of {label(first)} and {label(second)}",
            first,
            second,
            "float32",
            lambda g, x, y, r=result: g.op("BATCH_MATMUL", [x, y], r, options=options("BatchMatMul")),
        )
        yield single(
            f"BATCH_MATMUL batches of {label(first)} and constant {label(second)}",
            first,
            "float32",
            lambda g, x, s=second, r=result: g.op(
                "BATCH_MATMUL", [x, g.weights(*s)], r, options=options("BatchMatMul")
            ),
        )
    for adj_x, adj_y in ((False, True), (True, False), (True, True)):
        first = (1, 2, 8, 4) if adj_x else (1, 2, 4, 8)
        second = (1, 2, 6, 8) if adj_y else (1, 2, 8, 6)
        made = options("BatchMatMul", adjX=adj_x, adjY=adj_y)
        yield double(
            f"BATCH_MATMUL adjoint {adj_x} {adj_y}",
            first,
            second,
            "float32",
            lambda g, x, y, m=made: g.op("BATCH_MATMUL", [x, y], (1, 2, 4, 6), options=m),
        )
        yield single(
            f"BATCH_MATMUL adjoint {adj_x} {adj_y}, right constant",
            first,
            "float32",
            lambda g, x, s=second, m=made: g.op("BATCH_MATMUL", [x, g.weights(*s)], (1, 2, 4, 6), options=m),
        )
