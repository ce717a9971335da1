"""Small graphs of several operators, as converters write them."""

from __future__ import annotations

from tests.lint.corpus.case import Case, Cases
from tests.lint.corpus.graph import Graph, Shape, options

_IMAGE = (1, 4, 4, 16)
_GROUPED = (1, 16, 4, 4)


def cases() -> Cases:
    """Yields all cases of this file."""
    for broadcast in (False, True):
        yield Case(
            f"group norm {'with BROADCAST_TO' if broadcast else 'of plain operators'}", lambda b=broadcast: _norm(b)
        )
    for heads in (False, True):
        yield Case(f"attention {'of four heads' if heads else 'of one head'}", lambda h=heads: _attention(h))
    for half in (False, True):
        yield Case(f"feed-forward, {'float16' if half else 'float32'} weights", lambda h=half: _feed_forward(h))
    for kind in ("nearest", "bilinear"):
        yield Case(f"upsampling and convolution, {kind}", lambda k=kind: _upsampled(k))
    yield Case("channel split and gate", _gated)
    yield Case("half accepted", _half_accepted)
    yield Case("broadcast at the end", _broadcast_last)
    yield Case("group norm of rank 5", _rank_5_norm)
    yield Case("constant mask added to scores", _masked)
    yield Case("embedding and positions", _embedded)
    yield Case("timestep features", _timestep)
    yield Case("residual of two convolutions", _residual)


def _norm(broadcast: bool) -> bytes:
    graph = Graph()
    x = graph.input(_IMAGE)
    grouped = _reshape(graph, x, _GROUPED)
    axes = graph.const([2, 3])
    keep = options("Reducer", keepDims=True)
    (mean,) = graph.op("MEAN", [grouped, axes], (1, 16, 1, 1), options=keep)
    if broadcast:
        (mean,) = graph.op("BROADCAST_TO", [mean, graph.const(list(_GROUPED))], _GROUPED, version=2)
    (centred,) = graph.op("SUB", [grouped, mean], _GROUPED, options=options("Sub"))
    (squares,) = graph.op("MUL", [centred, centred], _GROUPED, options=options("Mul"))
    (variance,) = graph.op("MEAN", [squares, axes], (1, 16, 1, 1), options=keep)
    (shifted,) = graph.op("ADD", [variance, graph.const(1e-5, "float32")], (1, 16, 1, 1), options=options("Add"))
    (scale,) = graph.op("RSQRT", [shifted], (1, 16, 1, 1))
    (result,) = graph.op("MUL", [centred, scale], _GROUPED, options=options("Mul"))
    (flat,) = graph.op("MUL", [_reshape(graph, result, _IMAGE), graph.weights(16)], _IMAGE, options=options("Mul"))
    return graph.bytes(*graph.op("ADD", [flat, graph.weights(16)], _IMAGE, options=options("Add")))


def _rank_5_norm() -> bytes:
    graph = Graph()
    x = graph.input(_IMAGE)
    wide = _reshape(graph, x, (1, 4, 4, 4, 4))
    (mean,) = graph.op(
        "MEAN", [wide, graph.const([1, 2, 4])], (1, 1, 1, 4, 1), options=options("Reducer", keepDims=True)
    )
    (centred,) = graph.op("SUB", [wide, mean], (1, 4, 4, 4, 4), options=options("Sub"))
    return graph.bytes(_reshape(graph, centred, _IMAGE))


def _attention(heads: bool) -> bytes:
    graph = Graph()
    x = graph.input((1, 8, 16))
    made = [
        graph.op(
            "FULLY_CONNECTED",
            [x, graph.weights(16, 16), -1],
            (1, 8, 16),
            options=options("FullyConnected", keepNumDims=True),
            version=6,
        )[0]
        for _ in range(3)
    ]
    shape: Shape = (1, 8, 16)
    if heads:
        shape = (1, 4, 8, 4)
        made = [
            graph.op("TRANSPOSE", [_reshape(graph, m, (1, 8, 4, 4)), graph.const([0, 2, 1, 3])], shape)[0] for m in made
        ]
    scores = (*shape[:-2], 8, 8)
    (product,) = graph.op("BATCH_MATMUL", made[:2], scores, options=options("BatchMatMul", adjY=True))
    (scaled,) = graph.op("MUL", [product, graph.const(0.25, "float32")], scores, options=options("Mul"))
    (weights,) = graph.op("SOFTMAX", [scaled], scores, options=options("Softmax", beta=1.0))
    return graph.bytes(*graph.op("BATCH_MATMUL", [weights, made[2]], shape, options=options("BatchMatMul")))


def _feed_forward(half: bool) -> bytes:
    graph = Graph()
    x = graph.input((1, 8, 16))
    keep = options("FullyConnected", keepNumDims=True)
    first, second = (_stored(graph, s, half) for s in ((32, 16), (16, 32)))
    (hidden,) = graph.op("FULLY_CONNECTED", [x, first, -1], (1, 8, 32), options=keep, version=6)
    (bent,) = graph.op("GELU", [hidden], (1, 8, 32), options=options("Gelu"))
    (result,) = graph.op("FULLY_CONNECTED", [bent, second, -1], (1, 8, 16), options=keep, version=6)
    return graph.bytes(*graph.op("ADD", [x, result], (1, 8, 16), options=options("Add")))


def _stored(graph: Graph, shape: Shape, half: bool) -> int:
    if not half:
        return graph.weights(*shape)
    return graph.op("DEQUANTIZE", [graph.weights(*shape, dtype="float16")], shape, version=3)[0]


def _upsampled(kind: str) -> bytes:
    graph = Graph()
    x = graph.input(_IMAGE)
    name, made = (
        ("RESIZE_NEAREST_NEIGHBOR", options("ResizeNearestNeighbor"))
        if kind == "nearest"
        else ("RESIZE_BILINEAR", options("ResizeBilinear", halfPixelCenters=True))
    )
    (wide,) = graph.op(name, [x, graph.const([8, 8])], (1, 8, 8, 16), options=made, version=3)
    return graph.bytes(_convolve(graph, wide, (1, 8, 8, 16)))


def _gated() -> bytes:
    graph = Graph()
    x = graph.input((1, 8, 32))
    left, right = graph.op("SPLIT", [graph.const(2), x], (1, 8, 16), (1, 8, 16), options=options("Split", numSplits=2))
    (gate,) = graph.op("GELU", [right], (1, 8, 16), options=options("Gelu", approximate=True))
    return graph.bytes(*graph.op("MUL", [left, gate], (1, 8, 16), options=options("Mul")))


def _half_accepted() -> bytes:
    graph = Graph()
    x = graph.input(_IMAGE)
    (y,) = graph.op("TANH", [x], _IMAGE)
    (z,) = graph.op("L2_NORMALIZATION", [y], _IMAGE, options=options("L2Norm"))
    return graph.bytes(*graph.op("EXP", [z], _IMAGE))


def _broadcast_last() -> bytes:
    graph = Graph()
    x = graph.input((1, 1, 1, 16))
    (y,) = graph.op("TANH", [x], (1, 1, 1, 16))
    return graph.bytes(*graph.op("BROADCAST_TO", [y, graph.const(list(_IMAGE))], _IMAGE, version=2))


def _masked() -> bytes:
    graph = Graph()
    x = graph.input((2, 8, 8))
    (y,) = graph.op("ADD", [x, graph.weights(1, 8, 8)], (2, 8, 8), options=options("Add"))
    return graph.bytes(*graph.op("SOFTMAX", [y], (2, 8, 8), options=options("Softmax", beta=1.0)))


def _embedded() -> bytes:
    graph = Graph()
    ids = graph.input((1, 8), "int32")
    (flat,) = graph.op("RESHAPE", [ids, graph.const([8])], (8,), dtype="int32")
    (found,) = graph.op("EMBEDDING_LOOKUP", [flat, graph.weights(12, 16)], (8, 16))
    return graph.bytes(
        *graph.op(
            "ADD", [_reshape(graph, found, (1, 8, 16)), graph.weights(1, 8, 16)], (1, 8, 16), options=options("Add")
        )
    )


def _timestep() -> bytes:
    graph = Graph()
    (angles,) = graph.op("MUL", [graph.input((1, 1)), graph.weights(1, 8)], (1, 8), options=options("Mul"))
    pair = [graph.op(name, [angles], (1, 8))[0] for name in ("COS", "SIN")]
    return graph.bytes(*graph.op("CONCATENATION", pair, (1, 16), options=options("Concatenation", axis=1)))


def _residual() -> bytes:
    graph = Graph()
    x = graph.input(_IMAGE)
    (bent,) = graph.op("MUL", [x, graph.op("LOGISTIC", [x], _IMAGE)[0]], _IMAGE, options=options("Mul"))
    twice = _convolve(graph, _convolve(graph, bent, _IMAGE), _IMAGE)
    return graph.bytes(*graph.op("ADD", [x, twice], _IMAGE, options=options("Add")))


def _convolve(graph: Graph, x: int, shape: Shape) -> int:
    made = options("Conv2D", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    return graph.op("CONV_2D", [x, graph.weights(16, 3, 3, 16), graph.weights(16)], shape, options=made)[0]


def _reshape(graph: Graph, x: int, shape: Shape) -> int:
    return graph.op("RESHAPE", [x, graph.const(list(shape))], shape)[0]
