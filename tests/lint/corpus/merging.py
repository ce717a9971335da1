"""What the engine merges with a neighbour beside the pairs of `outputs.py`: chains, paddings; and computed biases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.lint.corpus.case import Case, Cases, double, single
from tests.lint.corpus.graph import Graph, Shape, options

_IMAGE, _WIDE = (1, 4, 4, 8), (1, 6, 6, 8)
_Step = Callable[[Graph, int], int]


def cases() -> Cases:
    """Yields all cases of this file."""
    yield from _chains()
    yield from _paddings()
    yield from _biases()
    for first, second, made in (
        ((1, 4, 8), (6, 8), {"adjY": True}),
        ((1, 8, 4), (8, 6), {"adjX": True}),
        ((1, 4, 8), (1, 6, 8), {"adjY": True}),
    ):
        yield single(
            f"BATCH_MATMUL {first} by stored {second}, {next(iter(made))}",
            first,
            "float32",
            lambda g, x, s=second, m=made: g.op(
                "BATCH_MATMUL", [x, g.weights(*s)], (1, 4, 6), options=options("BatchMatMul", **m)
            ),
        )


def _row(name: str, activation: int = 0, shape: Shape = _IMAGE) -> _Step:
    made = options(name.capitalize(), fusedActivationFunction=activation)
    return lambda graph, x: graph.op(name, [x, graph.weights(8)], shape, options=made)[0]


def _conv(size: int = 1, padding: int = 0, activation: int = 0, shape: Shape = _IMAGE) -> _Step:
    steps = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    made = options("Conv2D", **steps, padding=padding, fusedActivationFunction=activation)

    def add(graph: Graph, x: int) -> int:
        return graph.op("CONV_2D", [x, graph.weights(8, size, size, 8), graph.weights(8)], shape, options=made)[0]

    return add


def _chains() -> Cases:
    """Rows of operators, one of whose results is an output, too."""
    mul, add, conv = _row("MUL"), _row("ADD"), _conv()
    pad = _pad("PAD")
    chains: dict[str, tuple[list[_Step], int]] = {
        "CONV MUL ADD, second": ([conv, mul, add], 1),
        "CONV ADD MUL, second": ([conv, add, mul], 1),
        "CONV ADD ADD, second": ([conv, add, add], 1),
        "CONV MUL MUL, second": ([conv, mul, mul], 1),
        "CONV MUL CONV, second": ([conv, mul, conv], 1),
        "MUL ADD CONV, first": ([mul, add, conv], 0),
        "ADD MUL CONV, first": ([add, mul, conv], 0),
        "MUL MUL CONV, first": ([mul, mul, conv], 0),
        "MUL ADD CONV 3x3, first": ([mul, add, _conv(3)], 0),
        "MUL PAD CONV 3x3, first": ([mul, pad, _conv(3, 1)], 0),
        "CONV and RELU MUL, first": ([_conv(activation=1), mul], 0),
        "MUL and RELU CONV, first": ([_row("MUL", 1), conv], 0),
        "PAD CONV 3x3, first": ([pad, _conv(3, 1)], 0),
    }
    for name, (steps, which) in chains.items():
        yield Case(f"chain {name} an output", lambda s=steps, w=which: _chained(s, w))


def _chained(steps: list[_Step], which: int) -> bytes:
    graph = Graph()
    made = [graph.input(_IMAGE)]
    for step in steps:
        made.append(step(graph, made[-1]))
    return graph.bytes(made[-1], made[which + 1])


def _pad(name: str, value: float | None = None) -> _Step:
    def add(graph: Graph, x: int) -> int:
        sizes = graph.const(np.array([[0, 0], [1, 1], [1, 1], [0, 0]]))
        number = [] if value is None else [graph.const(value, "float32")]
        return graph.op(name, [x, sizes, *number], _WIDE)[0]

    return add


def _pooled(name: str) -> _Step:
    made = options("Pool2D", strideH=1, strideW=1, filterHeight=3, filterWidth=3, padding=1)
    return lambda graph, x: graph.op(name, [x], _IMAGE, options=made)[0]


def _paddings() -> Cases:
    """A padding and its reader; inputs are positive, so that NEG makes zeros the largest of a window."""
    negated: _Step = lambda graph, x: graph.op("NEG", [x], _IMAGE)[0]  # noqa: E731
    for value in (None, 1.0):
        for name, read in (("CONV_2D", _conv(3, 1)), *((op, _pooled(op)) for op in ("AVERAGE_POOL_2D", "MAX_POOL_2D"))):
            pad = _pad("PAD" if value is None else "PADV2", value)
            for before in ("", "NEG and "):
                steps = [*([negated] if before else []), pad, read]
                yield Case(f"{before}padding with {value or 0:g}, read by {name}", lambda s=steps: _last(s))
    yield Case("padding with 1, read by EXP", lambda: _last([_pad("PADV2", 1.0), _exp]))


def _exp(graph: Graph, x: int) -> int:
    return graph.op("EXP", [x], _WIDE)[0]


def _last(steps: list[_Step]) -> bytes:
    graph = Graph()
    made = graph.input(_IMAGE)
    for step in steps:
        made = step(graph, made)
    return graph.bytes(made)


def _biases() -> Cases:
    made = options("FullyConnected", keepNumDims=True)
    yield double(
        "FULLY_CONNECTED run-time bias",
        (2, 8),
        (6,),
        "float32",
        lambda g, x, b: g.op("FULLY_CONNECTED", [x, g.weights(6, 8), b], (2, 6), options=made, version=5),
    )
    steps = options("Conv2D", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    yield double(
        "CONV_2D run-time bias",
        _IMAGE,
        (8,),
        "float32",
        lambda g, x, b: g.op("CONV_2D", [x, g.weights(8, 1, 1, 8), b], _IMAGE, options=steps),
    )
