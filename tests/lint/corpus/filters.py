"""Pooling, resizing, softmax, and compressed weights."""

from __future__ import annotations

import numpy as np

from tests.lint.corpus.case import Case, Cases, label, single
from tests.lint.corpus.graph import Graph, Shape, options
from tests.lint.corpus.layers import convolve

_IMAGE = (1, 8, 8, 8)


def cases() -> Cases:
    """Yields all cases of this file."""
    yield from _pooling()
    yield from _resizing()
    yield from _softmax()
    yield from _compressed_weights()
    yield from _hybrid()


def _pooling() -> Cases:
    for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        for version in (1, 2, 3):
            made = options("Pool2D", filterWidth=2, filterHeight=2, strideW=2, strideH=2)
            yield single(
                f"{name} version {version}",
                _IMAGE,
                "float32",
                lambda g, x, n=name, m=made, v=version: g.op(n, [x], (1, 4, 4, 8), options=m, version=v),
            )
    made = options("Pool2D", filterWidth=2, filterHeight=2, strideW=2, strideH=2)
    yield single("L2_POOL_2D", _IMAGE, "float32", lambda g, x: g.op("L2_POOL_2D", [x], (1, 4, 4, 8), options=made))


def _resizing() -> Cases:
    for name, kind in (("RESIZE_BILINEAR", "ResizeBilinear"), ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighbor")):
        for align in (False, True):
            for half in (False, True):
                made = options(kind, alignCorners=align, halfPixelCenters=half)
                yield single(
                    f"{name} align {align} half {half}",
                    _IMAGE,
                    "float32",
                    lambda g, x, n=name, m=made: g.op(n, [x, g.const([16, 16])], (1, 16, 16, 8), options=m, version=3),
                )
        for version in (1, 4):
            yield single(
                f"{name} version {version}",
                _IMAGE,
                "float32",
                lambda g, x, n=name, v=version, k=kind: g.op(
                    n, [x, g.const([16, 16])], (1, 16, 16, 8), options=options(k), version=v
                ),
            )
    for name, kind, result in (
        ("DEPTH_TO_SPACE", "DepthToSpace", (1, 16, 16, 2)),
        ("SPACE_TO_DEPTH", "SpaceToDepth", (1, 4, 4, 32)),
    ):
        for version in (1, 2):
            made = options(kind, blockSize=2)
            yield single(
                f"{name} version {version}",
                _IMAGE,
                "float32",
                lambda g, x, n=name, m=made, r=result, v=version: g.op(n, [x], r, options=m, version=v),
            )
        made = options(kind, blockSize=1)
        yield single(f"{name} block 1", _IMAGE, "float32", lambda g, x, n=name, m=made: g.op(n, [x], _IMAGE, options=m))


def _softmax() -> Cases:
    for shape in ((4, 8), (2, 4, 8), (1, 4, 4, 8), (2, 4, 4, 8), (8,), (1, 1, 4, 4, 8)):
        made = options("Softmax", beta=1.0)
        yield single(
            f"SOFTMAX {label(shape)}",
            shape,
            "float32",
            lambda g, x, s=shape, m=made: g.op("SOFTMAX", [x], s, options=m),
        )
    for beta in (0.5, 2.0):
        made = options("Softmax", beta=beta)
        yield single(
            f"SOFTMAX beta {beta}", (4, 8), "float32", lambda g, x, m=made: g.op("SOFTMAX", [x], (4, 8), options=m)
        )
    for version in (2, 3, 4):
        made = options("Softmax", beta=1.0)
        yield single(
            f"SOFTMAX version {version}",
            (4, 8),
            "float32",
            lambda g, x, m=made, v=version: g.op("SOFTMAX", [x], (4, 8), options=m, version=v),
        )


def _compressed_weights() -> Cases:
    for shape in ((8,), (4, 8), (1, 4, 8), (1, 3, 3, 8), (4, 3, 3, 8)):
        yield single(
            f"DEQUANTIZE float16 {label(shape)}", shape, "float32", lambda g, x, s=shape: _dequantized(g, x, s)
        )
    for shape in ((8,), (4, 8), (2, 4, 8), (4, 3, 3, 8)):
        for channelwise in (False, True):
            yield single(
                f"DEQUANTIZE constant int8 {label(shape)} {'per channel' if channelwise else 'per tensor'}",
                shape,
                "float32",
                lambda g, x, s=shape, c=channelwise: _dequantized(g, x, s, "int8", c),
            )
    made = options("FullyConnected")
    yield single(
        "FULLY_CONNECTED float16 weights",
        (2, 8),
        "float32",
        lambda g, x: g.op("FULLY_CONNECTED", [x, _half(g, (6, 8)), _half(g, (6,))], (2, 6), options=made, version=5),
    )
    yield single(
        "CONV_2D float16 weights",
        _IMAGE,
        "float32",
        lambda g, x: g.op(
            "CONV_2D",
            [x, _half(g, (4, 3, 3, 8)), _half(g, (4,))],
            (1, 8, 8, 4),
            options=options("Conv2D", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1),
        ),
    )
    for channelwise in (False, True):
        how = "per channel" if channelwise else "per tensor"
        yield single(
            f"FULLY_CONNECTED dequantized int8 weights {how}",
            (2, 8),
            "float32",
            lambda g, x, c=channelwise: g.op(
                "FULLY_CONNECTED", [x, _whole(g, (6, 8), c), -1], (2, 6), options=made, version=6
            ),
        )
        yield single(
            f"CONV_2D dequantized int8 weights {how}",
            _IMAGE,
            "float32",
            lambda g, x, c=channelwise: convolve(g, x, _whole(g, (4, 3, 3, 8), c), (1, 8, 8, 4)),
        )
    for dtype, version in (("int8", 6), ("int4", 10)):
        yield single(
            f"FULLY_CONNECTED hybrid {dtype} weights",
            (2, 8),
            "float32",
            lambda g, x, d=dtype, v=version: g.op(
                "FULLY_CONNECTED",
                [x, g.quantized(g.weights(6, 8, dtype=d), [0.1] * 6), -1],
                (2, 6),
                options=options("FullyConnected", asymmetricQuantizeInputs=False),
                version=v,
            ),
            comparable=False,
        )


_ROUNDING = 0.01  # of activations that both sides quantise by rules of their own


def _hybrid() -> Cases:
    """Products of int8 weights and float activations, which the runtime quantises, that keep or drop their rank."""
    for shape in ((1, 80, 64), (2, 80, 64), (1, 8, 10, 64), (1, 1, 80, 64), (80, 64)):
        rows = int(np.prod(shape[:-1]))
        for result in dict.fromkeys(((*shape[:-1], 64), (rows, 64))):
            keep = len(result) == len(shape) and len(shape) > 2
            name = f"FULLY_CONNECTED int8 weights {label(shape)} to {label(result)}"

            def alone(shape: Shape = shape, result: Shape = result, keep: bool = keep) -> bytes:
                graph = Graph()
                return graph.bytes(_product(graph, graph.input(shape), result, keep))

            yield Case(name, alone, tolerance=_ROUNDING)

            def added(shape: Shape = shape, result: Shape = result, keep: bool = keep) -> bytes:
                graph = Graph()
                x = graph.input(shape)
                made = _product(graph, x, result, keep)
                if result != shape:
                    made = graph.op(
                        "RESHAPE", [made, graph.const(shape)], shape, options=options("Reshape", newShape=list(shape))
                    )[0]
                return graph.bytes(*graph.op("ADD", [made, x], shape, options=options("Add")))

            yield Case(f"{name}, added to the input", added, tolerance=_ROUNDING)


def _product(graph: Graph, x: int, result: Shape, keep: bool) -> int:
    weights = graph.quantized(graph.weights(64, 64, dtype="int8"), [0.01] * 64)
    made = options("FullyConnected", keepNumDims=keep, asymmetricQuantizeInputs=False)
    return graph.op("FULLY_CONNECTED", [x, weights, graph.weights(64)], result, options=made, version=9)[0]


def _half(graph: Graph, shape: Shape) -> int:
    return graph.op(
        "DEQUANTIZE", [graph.weights(*shape, dtype="float16")], shape, options=options("Dequantize"), version=3
    )[0]


def _whole(graph: Graph, shape: Shape, channelwise: bool) -> int:
    stored = graph.quantized(graph.weights(*shape, dtype="int8"), [0.1] * (shape[0] if channelwise else 1))
    version = 5 if channelwise else 2
    return graph.op("DEQUANTIZE", [stored], shape, options=options("Dequantize"), version=version)[0]


def _dequantized(graph: Graph, x: int, shape: Shape, dtype: str = "float16", channelwise: bool = False) -> list[int]:
    stored = graph.weights(*shape, dtype=dtype)
    if dtype == "int8":
        graph.quantized(stored, [0.1] * (shape[0] if channelwise else 1))
    version = 5 if channelwise else 2
    made = graph.op("DEQUANTIZE", [stored], shape, options=options("Dequantize"), version=version)
    return graph.op("ADD", [made[0], x], shape, options=options("Add"))
