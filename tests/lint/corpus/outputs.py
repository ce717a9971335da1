"""Values that are outputs of the model and read by another operator, which the engine may merge with their producer."""

from __future__ import annotations

from collections.abc import Callable

from tests.lint.corpus.case import Case, Cases
from tests.lint.corpus.graph import Graph, Shape, options
from tests.lint.corpus.layers import convolve

_IMAGE = (1, 4, 4, 8)

_Step = Callable[[Graph, int], int]


def cases() -> Cases:
    """Yields all cases of this file."""
    for first, produce in (_WEIGHTED | _PER_CHANNEL | _OTHERS).items():
        for second, read in (_WEIGHTED | _PER_CHANNEL | _OTHERS | _REDUCTIONS).items():
            yield _pair(first, produce, second, read)
    for name in ("ADD", "SUB", "MUL"):
        for second, read in (_REDUCTIONS | {"EXP": _OTHERS["EXP"], "CONV_2D 1x1": _WEIGHTED["CONV_2D 1x1"]}).items():
            yield _computed(name, second, read)
    yield from _read_twice()


def _pair(first: str, produce: _Step, second: str, read: _Step) -> Case:
    def build() -> bytes:
        graph = Graph()
        made = produce(graph, graph.input(_IMAGE))
        return graph.bytes(read(graph, made), made)

    return Case(f"output {first}, read by {second}", build)


def _computed(name: str, second: str, read: _Step) -> Case:
    def build() -> bytes:
        graph = Graph()
        made = _pairwise(graph, name, graph.input(_IMAGE), graph.input(_IMAGE))
        return graph.bytes(read(graph, made), made)

    return Case(f"output {name} of two inputs, read by {second}", build)


def _read_twice() -> Cases:
    def product() -> bytes:
        graph = Graph()
        made = _PER_CHANNEL["MUL number"](graph, graph.input(_IMAGE))
        return graph.bytes(_WEIGHTED["CONV_2D 1x1"](graph, made), _OTHERS["EXP"](graph, made), made)

    def total() -> bytes:
        graph = Graph()
        made = _pairwise(graph, "ADD", graph.input(_IMAGE), graph.input(_IMAGE))
        return graph.bytes(_REDUCTIONS["SUM over channels"](graph, made), _OTHERS["EXP"](graph, made), made)

    yield Case("output MUL number, read by CONV_2D and EXP", product)
    yield Case("output ADD of two inputs, read by SUM and EXP", total)


def _pairwise(graph: Graph, name: str, left: int, right: int, shape: Shape = _IMAGE) -> int:
    return graph.op(name, [left, right], shape, options=options(name.capitalize()))[0]


def _weights(name: str, size: int) -> _Step:
    def add(graph: Graph, x: int) -> int:
        if name == "CONV_2D":
            return convolve(graph, x, graph.weights(8, size, size, 8), _IMAGE, 8)[0]
        if name == "DEPTHWISE_CONV_2D":
            steps = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "depthMultiplier": 1}
            inputs = [x, graph.weights(1, size, size, 8), graph.weights(8)]
            return graph.op(name, inputs, _IMAGE, options=options("DepthwiseConv2D", **steps))[0]
        made = options("FullyConnected", keepNumDims=True)
        return graph.op(name, [x, graph.weights(8, 8), graph.weights(8)], _IMAGE, options=made)[0]

    return add


def _stored(name: str, *shape: int) -> _Step:
    def add(graph: Graph, x: int) -> int:
        constant = graph.weights(*shape) if shape else graph.const(1.5, "float32")
        return _pairwise(graph, name, x, constant)

    return add


def _plain(name: str) -> _Step:
    return lambda graph, x: graph.op(name, [x], _IMAGE)[0]


def _reduced(name: str, axes: tuple[int, ...], result: Shape) -> _Step:
    made = options("Reducer", keepDims=True)
    return lambda graph, x: graph.op(name, [x, graph.const(axes)], result, options=made)[0]


_WEIGHTED = {
    "CONV_2D 3x3": _weights("CONV_2D", 3),
    "CONV_2D 1x1": _weights("CONV_2D", 1),
    "DEPTHWISE_CONV_2D 3x3": _weights("DEPTHWISE_CONV_2D", 3),
    "FULLY_CONNECTED": _weights("FULLY_CONNECTED", 1),
}
_PER_CHANNEL = {
    "ADD number": _stored("ADD"),
    "ADD row": _stored("ADD", 8),
    "ADD tensor": _stored("ADD", *_IMAGE),
    "MUL number": _stored("MUL"),
    "MUL row": _stored("MUL", 8),
    "MUL tensor": _stored("MUL", *_IMAGE),
    "SUB number": _stored("SUB"),
    "DIV number": _stored("DIV"),
}
_OTHERS = {"EXP": _plain("EXP"), "RELU": _plain("RELU")}
_REDUCTIONS = {
    "SUM over the image": _reduced("SUM", (1, 2), (1, 1, 1, 8)),
    "SUM over channels": _reduced("SUM", (3,), (1, 4, 4, 1)),
    "MEAN over the image": _reduced("MEAN", (1, 2), (1, 1, 1, 8)),
    "REDUCE_MAX over channels": _reduced("REDUCE_MAX", (3,), (1, 4, 4, 1)),
}
