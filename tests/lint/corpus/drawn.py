"""Models drawn at random: shapes of rank 1 to 5, either side stored, any axis; what nobody thought of."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from tests.lint.corpus.case import Case, Cases, label, words
from tests.lint.corpus.graph import Graph, Shape, options

SEED = 40_001
COUNT = 300
_BINARY = words("ADD SUB MUL DIV MAXIMUM MINIMUM SQUARED_DIFFERENCE LESS GREATER_EQUAL")
_UNARY = words("EXP TANH LOGISTIC NEG SQUARE RSQRT ABS GELU")
_OPTIONS = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "GELU": "Gelu"}
_SIZES = (1, 1, 2, 3, 4, 5, 8)

Draw = Callable[[random.Random, Graph], tuple[str, list[int]]]


def cases() -> Cases:
    """Yields COUNT cases; the same in every run."""
    for index in range(COUNT):
        yield _case(index)


def _case(index: int) -> Case:
    def build() -> bytes:
        graph = Graph()
        return graph.bytes(*_add(index, graph)[1])

    return Case(f"drawn {index}: {_add(index, Graph())[0]}", build)


def _add(index: int, graph: Graph) -> tuple[str, list[int]]:
    source = random.Random(SEED + index)
    return source.choice(_FAMILIES)(source, graph)


def _shape(source: random.Random, low: int = 1, high: int = 5) -> Shape:
    return tuple(source.choice(_SIZES) for _ in range(source.randint(low, high)))


def _binary(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    name, whole = source.choice(_BINARY), _shape(source, 1, 4)
    first, second = (_part(source, whole) for _ in range(2))
    stored = source.choice((None, None, 0, 1))
    pair = [
        graph.const(_numbers(shape), "float32") if stored == side else graph.input(shape)
        for side, shape in enumerate((first, second))
    ]
    made = options(_OPTIONS[name]) if name in _OPTIONS else None
    result = tuple(np.broadcast_shapes(first, second))
    dtype = "bool" if name in ("LESS", "GREATER_EQUAL") else "float32"
    title = f"{name} {label(first)} and {label(second)}, stored {stored}"
    return title, graph.op(name, pair, result, dtype=dtype, options=made)


def _numbers(shape: Shape) -> np.ndarray:
    """Numbers on both sides of what the inputs hold, so that comparisons come out both ways."""
    return np.linspace(0.1, 2.0, int(np.prod(shape))).reshape(shape)


def _part(source: random.Random, whole: Shape) -> Shape:
    """Returns a shape that broadcasts to `whole`."""
    dropped = whole[source.randint(0, len(whole)) if source.random() < 0.4 else 0 :]
    return tuple(1 if source.random() < 0.25 else size for size in dropped)


def _unary(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    name, shape = source.choice(_UNARY), _shape(source)
    made = options(_OPTIONS[name]) if name in _OPTIONS else None
    return f"{name} {label(shape)}", graph.op(name, [graph.input(shape)], shape, options=made)


def _transpose(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    shape = _shape(source)
    order = list(range(len(shape)))
    source.shuffle(order)
    result = tuple(shape[axis] for axis in order)
    return (
        f"TRANSPOSE {label(shape)} by {order}",
        graph.op("TRANSPOSE", [graph.input(shape), graph.const(order)], result),
    )


def _reduction(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    name, shape = source.choice(("MEAN", "SUM", "REDUCE_MAX")), _shape(source)
    axes = source.sample(range(len(shape)), source.randint(1, len(shape)))
    keep = source.random() < 0.5
    result = tuple(1 if i in axes else s for i, s in enumerate(shape) if keep or i not in axes)
    made = options("Reducer", keepDims=keep)
    title = f"{name} {label(shape)} axes {axes} keep {keep}"
    return title, graph.op(name, [graph.input(shape), graph.const(axes)], result, options=made)


def _batch_matmul(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    batch = _shape(source, 0, 2)
    left, right = (_part(source, batch) for _ in range(2))
    if len(left) != len(right):
        left = right = batch
    rows, inner, columns = (source.choice((2, 3, 4, 8)) for _ in range(3))
    shapes = ((*left, rows, inner), (*right, inner, columns))
    stored = source.choice((None, None, 0, 1))
    pair = [graph.weights(*s) if stored == side else graph.input(s) for side, s in enumerate(shapes)]
    result = (*np.broadcast_shapes(left, right), rows, columns)
    title = f"BATCH_MATMUL {label(shapes[0])} and {label(shapes[1])}, stored {stored}"
    return title, graph.op("BATCH_MATMUL", pair, result, options=options("BatchMatMul"))


def _slice(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    shape = _shape(source)
    begin = [source.randrange(size) for size in shape]
    size = [source.randint(1, length - first) for length, first in zip(shape, begin, strict=True)]
    x = graph.input(shape)
    if source.random() < 0.5:
        return (
            f"SLICE {label(shape)} from {begin} by {size}",
            graph.op("SLICE", [x, graph.const(begin), graph.const(size)], tuple(size)),
        )
    stride = [source.choice((1, 1, 2)) for _ in shape]
    result = tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
    end = [first + length for first, length in zip(begin, size, strict=True)]
    bounds = [graph.const(values) for values in (begin, end, stride)]
    title = f"STRIDED_SLICE {label(shape)} from {begin} to {end} by {stride}"
    return title, graph.op("STRIDED_SLICE", [x, *bounds], result, options=options("StridedSlice"))


def _concatenation(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    shape = _shape(source)
    axis, count = source.randrange(len(shape)), source.randint(2, 4)
    sizes = [source.choice((1, 2, 3, 4)) for _ in range(count)]
    parts = [graph.input(tuple(n if i == axis else s for i, s in enumerate(shape))) for n in sizes]
    result = tuple(sum(sizes) if i == axis else s for i, s in enumerate(shape))
    made = options("Concatenation", axis=axis)
    return f"CONCATENATION {label(shape)} axis {axis} of {sizes}", graph.op(
        "CONCATENATION", parts, result, options=made
    )


def _padding(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    shape = _shape(source)
    pads = [[source.choice((0, 0, 1, 2)), source.choice((0, 0, 1))] for _ in shape]
    result = tuple(a + size + b for size, (a, b) in zip(shape, pads, strict=True))
    return f"PAD {label(shape)} by {pads}", graph.op("PAD", [graph.input(shape), graph.const(pads)], result)


def _softmax(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    shape = _shape(source)
    return (
        f"SOFTMAX {label(shape)}",
        graph.op("SOFTMAX", [graph.input(shape)], shape, options=options("Softmax", beta=1.0)),
    )


def _fully_connected(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    shape, outputs = _shape(source, 1, 4), source.choice((1, 3, 8))
    keep = source.random() < 0.7
    rows = int(np.prod(shape[:-1]))
    result = (*shape[:-1], outputs) if keep else (rows, outputs)
    made = options("FullyConnected", keepNumDims=keep)
    inputs = [graph.input(shape), graph.weights(outputs, shape[-1]), -1]
    title = f"FULLY_CONNECTED {label(shape)} to {outputs} keep {keep}"
    return title, graph.op("FULLY_CONNECTED", inputs, result, options=made, version=6)


def _convolution(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    batch, size = source.choice((1, 2)), source.choice((4, 6))
    groups, width, grown = source.choice((1, 1, 2, 3, 4)), source.choice((1, 2, 4, 8)), source.choice((1, 2, 4))
    channels, outputs, kernel = groups * width, groups * grown, source.choice((1, 3))
    made = options("Conv2D", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    x = graph.input((batch, size, size, channels))
    inputs = [x, graph.weights(outputs, kernel, kernel, width), graph.weights(outputs)]
    title = f"CONV_2D {kernel}x{kernel} {channels} to {outputs} in {groups}, batch {batch}"
    return title, graph.op("CONV_2D", inputs, (batch, size, size, outputs), options=made, version=6)


def _gather(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    shape = _shape(source)
    axis = source.randrange(len(shape))
    indices = [source.randrange(shape[axis]) for _ in range(source.randint(1, 3))]
    result = tuple(len(indices) if i == axis else s for i, s in enumerate(shape))
    made = options("Gather", axis=axis)
    title = f"GATHER {label(shape)} axis {axis} at {indices}"
    return title, graph.op("GATHER", [graph.input(shape), graph.const(indices)], result, options=made)


def _reshape(source: random.Random, graph: Graph) -> tuple[str, list[int]]:
    shape = _shape(source)
    result = list(shape)
    source.shuffle(result)
    joined = (result[0] * result[1], *result[2:]) if len(result) > 1 and source.random() < 0.5 else tuple(result)
    title = f"RESHAPE {label(shape)} to {label(joined)}"
    return title, graph.op("RESHAPE", [graph.input(shape), graph.const(list(joined))], joined)


_FAMILIES: tuple[Draw, ...] = (
    _binary,
    _binary,
    _binary,
    _unary,
    _transpose,
    _reduction,
    _batch_matmul,
    _slice,
    _concatenation,
    _padding,
    _softmax,
    _fully_connected,
    _convolution,
    _gather,
    _reshape,
)
