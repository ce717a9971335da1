"""Elementwise operators: ranks, versions, types, broadcasting, constant sides, fused activations."""

from __future__ import annotations

import numpy as np

from tests.lint.corpus.case import Case, Cases, double, label, single, words
from tests.lint.corpus.graph import Graph, Shape, options

_UNARY = words("ABS CEIL COS ELU EXP FLOOR LOG LOGISTIC NEG ROUND RSQRT SIGN SIN SQRT SQUARE TANH")
_ACTIVATIONS = words("RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 HARD_SWISH")
_ARITHMETIC = words("ADD SUB MUL DIV MAXIMUM MINIMUM SQUARED_DIFFERENCE POW FLOOR_DIV FLOOR_MOD")
_COMPARE = words("EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL")
_TANH = 4  # the CPU's kernels leave it out
_OPTIONS = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div"}
_SHAPE = (1, 4, 4, 8)
_RANKS: tuple[Shape, ...] = ((8,), (2, 8), (2, 4, 8), (2, 4, 4, 8), (1, 2, 4, 4, 8), (1, 1, 2, 4, 4, 8))
_PAIRS: tuple[tuple[Shape, Shape], ...] = (
    ((1, 4, 4, 8), (8,)),
    ((1, 4, 4, 8), (4, 8)),
    ((1, 4, 4, 8), (1, 8)),
    ((1, 4, 4, 8), (4, 4, 8)),
    ((2, 4, 4, 8), (4, 4, 8)),
    ((1, 4, 4, 8), (1, 1, 1, 8)),
    ((1, 4, 4, 8), (1, 4, 1, 8)),
    ((1, 4, 4, 8), (1, 4, 4, 1)),
    ((1, 4, 4, 8), (1, 1, 1, 1)),
    ((1, 4, 4, 8), (1,)),
    ((2, 4, 4, 8), (1, 4, 4, 8)),
    ((1, 4, 1, 8), (1, 1, 4, 8)),
    ((2, 4, 8), (8,)),
    ((2, 4, 8), (4, 8)),
    ((2, 4, 8), (2, 1, 8)),
    ((2, 4, 8), (1, 4, 1)),
    ((4, 8), (8,)),
    ((4, 8), (4, 1)),
)


def cases() -> Cases:
    """Yields all cases of this file."""
    yield from _unary()
    yield from _binary()
    yield from _constant_sides()
    yield from _types_and_versions()


def _unary() -> Cases:
    for name in _UNARY + _ACTIVATIONS:
        made = options("HardSwish") if name == "HARD_SWISH" else None
        yield single(f"{name} float32", _SHAPE, "float32", lambda g, x, n=name, m=made: g.op(n, [x], _SHAPE, options=m))
    for shape in _RANKS:
        yield single(f"EXP rank {len(shape)}", shape, "float32", lambda g, x, s=shape: g.op("EXP", [x], s))
    for approximate in (False, True):
        made = options("Gelu", approximate=approximate)
        yield single(
            f"GELU {approximate}", _SHAPE, "float32", lambda g, x, m=made: g.op("GELU", [x], _SHAPE, options=m)
        )
    made = options("LeakyRelu", alpha=0.1)
    yield single("LEAKY_RELU", _SHAPE, "float32", lambda g, x: g.op("LEAKY_RELU", [x], _SHAPE, options=made))
    for shape in ((1, 1, 8), (4, 4, 8), (1, 4, 4, 8), (4, 4, 1)):
        yield single(
            f"PRELU {label(shape)}", _SHAPE, "float32", lambda g, x, s=shape: g.op("PRELU", [x, g.weights(*s)], _SHAPE)
        )
    yield single("EXP of a constant", (1, 4), "float32", _exp_of_constant)


def _exp_of_constant(graph: Graph, x: int) -> list[int]:
    made = graph.op("EXP", [graph.weights(1, 4)], (1, 4))
    return graph.op("ADD", [x, made[0]], (1, 4), options=options("Add"))


def _binary() -> Cases:
    for name in [*_ARITHMETIC, "ATAN2"]:
        yield _pair(name, _SHAPE, _SHAPE, f"{name} float32")
    for first, second in _PAIRS:
        for name in ("ADD", "MUL"):
            yield _pair(name, first, second, f"{name} {label(first)} with {label(second)}")
    for name in ("SUB", "DIV", "MAXIMUM"):
        for first, second in _PAIRS[1:4]:
            yield _pair(name, first, second, f"{name} {label(first)} with {label(second)}")
    for name in ("ADD", "MUL"):
        for first, second in (((1, 1, 4, 4, 8), (8,)), ((2, 1, 4, 4, 8), (2, 1, 4, 4, 8))):
            yield _pair(name, first, second, f"{name} {label(first)} with {label(second)}")
    for name in ("ADD", "MUL", "SUB", "MAXIMUM"):
        yield single(
            f"{name} of a tensor with itself", _SHAPE, "float32", lambda g, x, n=name: _apply(g, n, x, x, _SHAPE)
        )
    for activation in range(6):  # none, relu, relu_n1_to_1, relu6, tanh, sign_bit
        for name in ("ADD", "MUL"):
            made = options(_OPTIONS[name], fusedActivationFunction=activation)
            yield double(
                f"{name} with fused activation {activation}",
                _SHAPE,
                _SHAPE,
                "float32",
                lambda g, x, y, n=name, m=made: g.op(n, [x, y], _SHAPE, options=m),
                comparable=activation != _TANH,
            )
    yield from _sums()


def _sums() -> Cases:
    for count in (2, 3):

        def build(count: int = count) -> bytes:
            graph = Graph()
            return graph.bytes(
                *graph.op("ADD_N", [graph.input(_SHAPE) for _ in range(count)], _SHAPE, options=options("AddN"))
            )

        yield Case(f"ADD_N of {count}", build)


def _constant_sides() -> Cases:
    for shape in ((), (1,), (8,), (1, 8), (4, 8), (1, 4, 8), (4, 4, 8), (1, 1, 1, 8), (1, 4, 4, 8), (1, 1, 4, 4, 8)):
        for name in ("ADD", "MUL"):
            yield _with_constant(name, _SHAPE, shape, 1)
    for name in ("SUB", "DIV", "POW", "MAXIMUM", "SQUARED_DIFFERENCE"):
        for side in (0, 1):
            yield _with_constant(name, _SHAPE, (8,), side)
            yield _with_constant(name, _SHAPE, (), side)
    for shape in ((2, 8), (8,), (1, 8)):
        yield _with_constant("ADD", (2, 8), shape, 1)
    for shape in ((4, 8), (2, 4, 8), (1, 4, 1)):
        yield _with_constant("MUL", (2, 4, 8), shape, 1)
    for shape, constant in (
        ((8,), (8,)),
        ((8,), (1,)),
        ((1,), (8,)),
        ((1,), (4, 8)),
        ((1, 1), (1, 8)),
        ((1, 1), (4, 8)),
        ((1, 1), (1, 4, 8)),
        ((4, 1), (1, 8)),
        ((1, 8), (4, 8)),
        ((2, 1, 8), (1, 4, 8)),
        ((1, 1, 1, 8), (1, 4, 4, 8)),
        ((1, 1, 1, 8), (2, 4, 4, 8)),
        ((1, 4, 1, 8), (1, 1, 4, 8)),
        ((2, 4), (2, 1)),
        ((2, 4, 8), (2, 1, 1)),
        ((2, 4, 4, 8), (2, 1, 1, 1)),
        ((2, 4, 4, 8), (1, 4, 1, 1)),
        ((2, 4, 4, 8), (2, 4, 4, 8)),
        ((2, 4, 4, 8), (2, 1, 1, 8)),
        ((2, 4, 4, 8), (2, 4, 4, 1)),
        ((2, 4, 8), (2, 1, 8)),
        ((2, 4, 8), (2, 4, 1)),
        ((4, 8), (4, 1)),
        ((4, 1), (4, 1)),
        ((2, 4, 4, 8), (1, 4, 4, 8)),
    ):
        yield _with_constant("ADD", shape, constant, 1)
        yield _with_constant("MUL", shape, constant, 1)
    for name in ("MINIMUM", "FLOOR_DIV", "FLOOR_MOD", "ATAN2", "LESS", "GREATER"):
        for side in (0, 1):
            yield _with_constant(name, _SHAPE, (8,), side)
            yield _with_constant(name, _SHAPE, (), side)
    yield _with_constant("ADD", _SHAPE, (8,), 1, constant_dtype="int32", dtype="int32")
    yield _with_constant("MUL", _SHAPE, (1, 4, 4, 8), 1, constant_dtype="int32", dtype="int32")
    for shape in ((), (1,)):
        yield _pair("ADD", _SHAPE, shape, f"ADD run-time {label(shape)}")
        yield _pair("SUB", _SHAPE, shape, f"SUB run-time {label(shape)}")
    for value in (2.0, 0.5, 3.0):
        yield single(
            f"POW of the constant {value}",
            _SHAPE,
            "float32",
            lambda g, x, v=value: g.op("POW", [g.const(v, "float32"), x], _SHAPE),
        )
        yield single(
            f"POW by the constant {value}",
            _SHAPE,
            "float32",
            lambda g, x, v=value: g.op("POW", [x, g.const(v, "float32")], _SHAPE),
        )
    yield _with_constant("SUB", (4, 8), (4, 8), 0)
    yield _with_constant("MAXIMUM", (2, 4, 8), (2, 4, 8), 1)
    yield _pair("SUB", (8,), (4, 8), "SUB smaller on the left")
    yield _pair("SUB", (1, 4, 1, 8), (1, 4, 4, 8), "SUB smaller on the left, rank 4")
    yield _pair("MAXIMUM", (1, 1, 1, 8), (2, 4, 4, 8), "MAXIMUM smaller on the left, rank 4")
    yield _with_constant("ADD", _SHAPE, (1,), 1, constant_dtype="int32", dtype="int32")


def _types_and_versions() -> Cases:
    for name in ("ADD", "SUB", "MUL", "MAXIMUM", "FLOOR_DIV"):
        yield _pair(name, _SHAPE, _SHAPE, f"{name} int32", "int32", 2 if name == "FLOOR_DIV" else 1)
    for name in ("ADD", "MUL"):
        yield _pair(name, _SHAPE, _SHAPE, f"{name} int64", "int64", 4)
    for name in ("ABS", "NEG", "SIGN"):
        yield single(
            f"{name} int32", _SHAPE, "int32", lambda g, x, n=name: g.op(n, [x], _SHAPE, dtype="int32", version=2)
        )
    for name, versions in {"ADD": (2, 3, 4, 5), "MUL": (2, 4, 5, 7), "SUB": (2, 3), "MAXIMUM": (3, 4)}.items():
        for version in versions:
            yield _pair(name, _SHAPE, _SHAPE, f"{name} version {version}", version=version)
    for name in _COMPARE:
        yield double(
            f"{name} to bool", _SHAPE, _SHAPE, "float32", lambda g, x, y, n=name: g.op(n, [x, y], _SHAPE, dtype="bool")
        )
    for dtype in ("int32", "int64", "bool"):
        yield double(
            f"EQUAL of {dtype}", _SHAPE, _SHAPE, dtype, lambda g, x, y: g.op("EQUAL", [x, y], _SHAPE, dtype="bool")
        )
    for name in ("LOGICAL_AND", "LOGICAL_OR"):
        yield double(
            f"{name} bool", _SHAPE, _SHAPE, "bool", lambda g, x, y, n=name: g.op(n, [x, y], _SHAPE, dtype="bool")
        )
    yield single("LOGICAL_NOT bool", _SHAPE, "bool", lambda g, x: g.op("LOGICAL_NOT", [x], _SHAPE, dtype="bool"))
    for name in ("BITWISE_XOR", "RIGHT_SHIFT"):
        yield double(
            f"{name} int32", _SHAPE, _SHAPE, "int32", lambda g, x, y, n=name: g.op(n, [x, y], _SHAPE, dtype="int32")
        )


def _with_constant(
    name: str, shape: Shape, constant: Shape, side: int, constant_dtype: str = "float32", dtype: str = "float32"
) -> Case:
    def add(graph: Graph, x: int) -> list[int]:
        made = graph.const(_numbers(constant), constant_dtype)
        pair = (made, x) if side == 0 else (x, made)
        result = np.broadcast_shapes(shape, constant)
        return _apply(graph, name, *pair, tuple(result), dtype)

    where = "left" if side == 0 else "right"
    return single(f"{name} {label(shape)} {dtype}, {where} constant {label(constant)}", shape, dtype, add)


def _pair(name: str, first: Shape, second: Shape, title: str, dtype: str = "float32", version: int = 1) -> Case:
    shape = tuple(np.broadcast_shapes(first, second))
    return double(title, first, second, dtype, lambda g, x, y: _apply(g, name, x, y, shape, dtype, version))


def _apply(
    graph: Graph, name: str, x: int, y: int, shape: Shape, dtype: str = "float32", version: int = 1
) -> list[int]:
    made = options(_OPTIONS[name]) if name in _OPTIONS else None
    if name in _COMPARE:
        dtype = "bool"
    return graph.op(name, [x, y], shape, dtype=dtype, version=version, options=made)


def _numbers(shape: Shape) -> np.ndarray:
    """Numbers from 1 to 3 that differ along every axis."""
    return 1 + np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape) * 7 % 5 / 2
