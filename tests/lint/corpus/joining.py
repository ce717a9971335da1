"""Operators that join, split, gather and broadcast values."""

from __future__ import annotations

from tests.lint.corpus.case import Case, Cases, double, label, single
from tests.lint.corpus.graph import Graph, Shape, options

_SHAPE = (1, 4, 4, 8)


def cases() -> Cases:
    """Yields all cases of this file."""
    yield from _joining()
    yield from _splitting()
    yield from _gathering()
    yield from _broadcasting()


def _joining() -> Cases:
    for shape, axis in (
        ((1, 4, 4, 8), 3),
        ((1, 4, 4, 8), -1),
        ((1, 4, 4, 8), 1),
        ((1, 4, 4, 8), 2),
        ((1, 4, 4, 8), 0),
        ((2, 4, 8), 2),
        ((2, 4, 8), 1),
        ((2, 4, 8), 0),
        ((4, 8), 1),
        ((4, 8), 0),
        ((8,), 0),
        ((1, 1, 4, 4, 8), 4),
    ):
        result = tuple(2 * s if i == axis % len(shape) else s for i, s in enumerate(shape))
        made = options("Concatenation", axis=axis)
        yield double(
            f"CONCATENATION {label(shape)} axis {axis}",
            shape,
            shape,
            "float32",
            lambda g, x, y, m=made, r=result: g.op("CONCATENATION", [x, y], r, options=m),
        )
    by_channel = options("Concatenation", axis=3)
    yield double(
        "CONCATENATION 3 and 5 channels",
        (1, 4, 4, 3),
        (1, 4, 4, 5),
        "float32",
        lambda g, x, y: g.op("CONCATENATION", [x, y], _SHAPE, options=by_channel),
    )
    yield single(
        "CONCATENATION with a constant",
        _SHAPE,
        "float32",
        lambda g, x: g.op("CONCATENATION", [x, g.weights(1, 4, 4, 2)], (1, 4, 4, 10), options=by_channel),
    )
    yield single(
        "CONCATENATION with itself",
        _SHAPE,
        "float32",
        lambda g, x: g.op("CONCATENATION", [x, x], (1, 4, 4, 16), options=by_channel),
    )
    for dtype in ("int32", "int64"):
        yield double(
            f"CONCATENATION {dtype}",
            _SHAPE,
            _SHAPE,
            dtype,
            lambda g, x, y, d=dtype: g.op("CONCATENATION", [x, y], (1, 4, 4, 16), options=by_channel, dtype=d),
        )
    for version in (2, 3, 4):
        yield double(
            f"CONCATENATION version {version}",
            _SHAPE,
            _SHAPE,
            "float32",
            lambda g, x, y, v=version: g.op("CONCATENATION", [x, y], (1, 4, 4, 16), options=by_channel, version=v),
        )
    for shape, axis in (
        ((4, 8), 0),
        ((4, 8), 1),
        ((4, 8), 2),
        ((4, 4, 8), 0),
        ((4, 4, 8), 3),
        ((1, 4, 4, 8), 0),
        ((8,), 0),
    ):
        result = (*shape[:axis], 2, *shape[axis:])
        made = options("Pack", valuesCount=2, axis=axis)
        yield double(
            f"PACK {label(shape)} axis {axis}",
            shape,
            shape,
            "float32",
            lambda g, x, y, m=made, r=result: g.op("PACK", [x, y], r, options=m),
        )


def _splitting() -> Cases:
    for shape, axis in (
        ((1, 4, 4, 8), 3),
        ((1, 4, 4, 8), 1),
        ((2, 4, 8), 2),
        ((2, 4, 8), 0),
        ((4, 8), 1),
        ((8,), 0),
        ((1, 1, 4, 4, 8), 4),
    ):
        part = tuple(s // 2 if i == axis else s for i, s in enumerate(shape))
        yield single(
            f"SPLIT {label(shape)} axis {axis}",
            shape,
            "float32",
            lambda g, x, a=axis, p=part: g.op("SPLIT", [g.const(a), x], p, p, options=options("Split", numSplits=2)),
        )
        yield single(
            f"SPLIT_V {label(shape)} axis {axis}",
            shape,
            "float32",
            lambda g, x, a=axis, p=part: g.op(
                "SPLIT_V", [x, g.const([p[a], p[a]]), g.const(a)], p, p, options=options("SplitV", numSplits=2)
            ),
        )
    for shape, axis in (
        ((2, 4, 8), 0),
        ((2, 4, 8), 1),
        ((2, 4, 8), 2),
        ((2, 4, 4, 8), 0),
        ((1, 4, 4, 8), 3),
        ((4, 8), 0),
        ((2, 1, 4, 4, 8), 0),
    ):
        part = tuple(s for i, s in enumerate(shape) if i != axis)
        made = options("Unpack", num=shape[axis], axis=axis)
        yield single(
            f"UNPACK {label(shape)} axis {axis}",
            shape,
            "float32",
            lambda g, x, m=made, p=part, n=shape[axis]: g.op("UNPACK", [x], *([p] * n), options=m),
        )


def _gathering() -> Cases:
    for shape, axis in (
        ((4, 8), 0),
        ((4, 8), 1),
        ((2, 4, 8), 1),
        ((1, 4, 4, 8), 3),
        ((1, 4, 4, 8), 2),
        ((8,), 0),
        ((1, 1, 4, 4, 8), 2),
    ):
        result = tuple(2 if i == axis else s for i, s in enumerate(shape))
        made = options("Gather", axis=axis)
        yield single(
            f"GATHER {label(shape)} axis {axis}",
            shape,
            "float32",
            lambda g, x, m=made, r=result: g.op("GATHER", [x, g.const([0, 2])], r, options=m),
        )
    yield Case("GATHER run-time indices", lambda: _indexed("GATHER", (2,), (2, 8), "int32", (0,)))
    yield Case("GATHER int64 indices", lambda: _indexed("GATHER", (2,), (2, 8), "int64", (0,)))
    yield Case("GATHER 2-D indices", lambda: _indexed("GATHER", (2, 2), (2, 2, 8), "int32", (0,)))
    yield Case("GATHER constant table", lambda: _looked_up("GATHER", (2,), (2, 8)))
    yield Case("GATHER_ND", lambda: _indexed("GATHER_ND", (2, 1), (2, 8), "int32", None))
    for shape in ((3,), (1,)):
        yield Case(f"EMBEDDING_LOOKUP {label(shape)}", lambda s=shape: _looked_up("EMBEDDING_LOOKUP", s, (*s, 8)))
    yield Case("EMBEDDING_LOOKUP float16 table", lambda: _looked_up("EMBEDDING_LOOKUP", (3,), (3, 8), "float16"))
    yield Case("EMBEDDING_LOOKUP int8 table", lambda: _looked_up("EMBEDDING_LOOKUP", (3,), (3, 8), "int8"))


def _indexed(name: str, indices: Shape, result: Shape, dtype: str, axis: tuple[int, ...] | None) -> bytes:
    graph = Graph()
    made = None if axis is None else options("Gather", axis=axis[0])
    x, i = graph.input((4, 8)), graph.input(indices, dtype)
    return graph.bytes(*graph.op(name, [x, i], result, options=made))


def _looked_up(name: str, indices: Shape, result: Shape, dtype: str = "float32") -> bytes:
    graph = Graph()
    i = graph.input(indices, "int32")
    table = graph.weights(6, 8, dtype=dtype)
    if dtype == "int8":
        graph.quantized(table, [0.1] * 6)
    if dtype == "float16":
        table = graph.op("DEQUANTIZE", [table], (6, 8), version=3)[0]
    gather = name == "GATHER"
    inputs = [table, i] if gather else [i, table]
    version = 3 if dtype == "int8" else 1
    return graph.bytes(
        *graph.op(name, inputs, result, options=options("Gather", axis=0) if gather else None, version=version)
    )


def _broadcasting() -> Cases:
    for shape, result in (
        ((1, 1, 1, 8), (1, 4, 4, 8)),
        ((8,), (4, 8)),
        ((1, 8), (4, 8)),
        ((1, 1, 1, 4, 8), (1, 2, 2, 4, 8)),
    ):
        for version in (2, 3):
            yield single(
                f"BROADCAST_TO {label(shape)} to {label(result)} version {version}",
                shape,
                "float32",
                lambda g, x, r=result, v=version: g.op("BROADCAST_TO", [x, g.const(list(r))], r, version=v),
            )
    for shape, times in (
        ((1, 4, 4, 8), (1, 2, 2, 1)),
        ((4, 8), (2, 1)),
        ((1, 4, 4, 8), (1, 1, 1, 2)),
        ((1, 1, 4, 4, 8), (1, 2, 1, 1, 1)),
    ):
        result = tuple(s * t for s, t in zip(shape, times, strict=True))
        yield single(
            f"TILE {label(shape)} by {times}",
            shape,
            "float32",
            lambda g, x, t=times, r=result: g.op("TILE", [x, g.const(list(t))], r),
        )
    for axis in (0, 1, 3):
        yield single(
            f"REVERSE_V2 axis {axis}",
            _SHAPE,
            "float32",
            lambda g, x, a=axis: g.op("REVERSE_V2", [x, g.const([a])], _SHAPE),
        )
