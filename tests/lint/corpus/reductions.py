"""Reductions, searches, selection, type conversion, and operators that no GPU runtime has."""

from __future__ import annotations

from tests.lint.corpus.case import Case, Cases, double, label, single
from tests.lint.corpus.graph import Graph, Shape, options

_SHAPE = (1, 4, 4, 8)


def cases() -> Cases:
    """Yields all cases of this file."""
    yield from _reductions()
    yield from _searches()
    yield from _selection()
    yield from _conversion()
    yield from _missing()


def _reduced(shape: Shape, axes: tuple[int, ...], keep: bool) -> Shape:
    gone = {axis % len(shape) for axis in axes}
    if keep:
        return tuple(1 if i in gone else s for i, s in enumerate(shape))
    return tuple(s for i, s in enumerate(shape) if i not in gone)


def _reductions() -> Cases:
    for name in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"):
        for axes in ((1, 2), (3,), (-1,)):
            yield _reduction(name, _SHAPE, axes, True)
    for shape, axes in (
        ((4, 8), (1,)),
        ((2, 4, 8), (1,)),
        ((2, 4, 8), (2,)),
        ((2, 4, 4, 8), (0,)),
        ((1, 4, 4, 8), (0, 1, 2, 3)),
        ((8,), (0,)),
        ((1, 2, 4, 4, 8), (2, 3)),
    ):
        for keep in (True, False):
            yield _reduction("MEAN", shape, axes, keep)
    yield _reduction("SUM", (2, 4, 8), (1,), False)
    yield _reduction("MEAN", _SHAPE, (3,), True, version=2)
    yield _reduction("REDUCE_MAX", _SHAPE, (3,), True, dtype="int32")
    for name in ("REDUCE_ANY", "REDUCE_ALL"):
        yield _reduction(name, _SHAPE, (3,), True, dtype="bool")

    def runtime_axes() -> bytes:
        graph = Graph()
        x, axes = graph.input(_SHAPE), graph.input((1,), "int32")
        return graph.bytes(*graph.op("MEAN", [x, axes], (1, 4, 1, 8), options=options("Reducer", keepDims=True)))

    yield Case("MEAN run-time axes", runtime_axes)


def _reduction(
    name: str, shape: Shape, axes: tuple[int, ...], keep: bool, dtype: str = "float32", version: int = 1
) -> Case:
    made = options("Reducer", keepDims=keep)
    result = _reduced(shape, axes, keep)
    title = f"{name} {label(shape)} {dtype} axes {axes} keep {keep} version {version}"
    return single(
        title,
        shape,
        dtype,
        lambda g, x: g.op(name, [x, g.const(list(axes))], result, options=made, dtype=dtype, version=version),
    )


def _searches() -> Cases:
    for name, kind in (("ARG_MAX", "ArgMax"), ("ARG_MIN", "ArgMin")):
        for axis in (1, 3, -1):
            result = _reduced(_SHAPE, (axis,), False)
            made = options(kind, outputType=2)
            yield single(
                f"{name} axis {axis}",
                _SHAPE,
                "float32",
                lambda g, x, n=name, a=axis, m=made, r=result: g.op(n, [x, g.const(a)], r, options=m, dtype="int32"),
            )
    yield single("TOPK_V2", (4, 8), "float32", lambda g, x: _top(g, x, (4, 8)))
    yield single("TOPK_V2 rank 4", _SHAPE, "float32", lambda g, x: _top(g, x, _SHAPE))
    for axis in (1, 3):
        made = options("Cumsum")
        yield single(
            f"CUMSUM axis {axis}",
            _SHAPE,
            "float32",
            lambda g, x, a=axis, m=made: g.op("CUMSUM", [x, g.const(a)], _SHAPE, options=m),
        )
    for shape in ((4,), (1, 4), (1, 1, 4), (2, 4)):
        made = options("OneHot", axis=-1)
        yield single(
            f"ONE_HOT {label(shape)}",
            shape,
            "int32",
            lambda g, x, m=made, s=shape: g.op(
                "ONE_HOT", [x, g.const(8), g.const(1.0, "float32"), g.const(0.0, "float32")], (*s, 8), options=m
            ),
        )


def _top(graph: Graph, x: int, shape: Shape) -> list[int]:
    values = graph.tensor((*shape[:-1], 3))
    indices = graph.tensor((*shape[:-1], 3), "int32")
    return graph.op("TOPK_V2", [x, graph.const(3)], values, indices)


def _selection() -> Cases:
    yield double("SELECT_V2 by comparison", _SHAPE, _SHAPE, "float32", lambda g, x, y: _select(g, "SELECT_V2", x, y))
    yield double("SELECT by comparison", _SHAPE, _SHAPE, "float32", lambda g, x, y: _select(g, "SELECT", x, y))
    yield double("WHERE by comparison", (4, 8), (4, 8), "float32", _where)
    for shape in ((), (1,), (8,), (1, 1, 1, 8), (1, 4, 4, 8)):
        yield single(
            f"SELECT_V2 else constant {label(shape)}",
            _SHAPE,
            "float32",
            lambda g, x, s=shape: g.op("SELECT_V2", [_less(g, x, _SHAPE), x, g.weights(*s)], _SHAPE),
        )
    for shape in ((4, 8), (2, 4, 8)):
        yield double(
            f"SELECT_V2 rank {len(shape)}",
            shape,
            shape,
            "float32",
            lambda g, x, y, s=shape: g.op("SELECT_V2", [_less(g, x, s), x, y], s),
        )


def _less(graph: Graph, x: int, shape: Shape) -> int:
    return graph.op("LESS", [x, graph.const([0.5], "float32")], shape, dtype="bool")[0]


def _select(graph: Graph, name: str, x: int, y: int) -> list[int]:
    return graph.op(name, [graph.op("LESS", [x, y], _SHAPE, dtype="bool")[0], x, y], _SHAPE)


def _where(graph: Graph, x: int, y: int) -> list[int]:
    return graph.op("WHERE", [graph.op("LESS", [x, y], (4, 8), dtype="bool")[0]], (32, 2), dtype="int64")


def _conversion() -> Cases:
    for source, target in (
        ("float32", "int32"),
        ("int32", "float32"),
        ("float32", "float16"),
        ("float16", "float32"),
        ("bool", "float32"),
        ("float32", "bool"),
        ("int64", "int32"),
        ("int32", "int64"),
        ("int64", "float32"),
        ("int8", "float32"),
    ):
        yield single(
            f"CAST {source} to {target}",
            _SHAPE,
            source,
            lambda g, x, t=target: g.op("CAST", [x], _SHAPE, dtype=t, options=options("Cast")),
        )
    yield double(
        "CAST of a comparison",
        _SHAPE,
        _SHAPE,
        "float32",
        lambda g, x, y: g.op("CAST", [g.op("LESS", [x, y], _SHAPE, dtype="bool")[0]], _SHAPE, options=options("Cast")),
    )
    for name in ("EXP", "ADD", "TANH"):
        inputs = 2 if name == "ADD" else 1
        yield single(
            f"{name} float16 run time",
            _SHAPE,
            "float16",
            lambda g, x, n=name, i=inputs: g.op(n, [x] * i, _SHAPE, dtype="float16"),
        )
    yield single("QUANTIZE and DEQUANTIZE", _SHAPE, "float32", _quantized)


def _quantized(graph: Graph, x: int) -> list[int]:
    small = graph.quantized(graph.tensor(_SHAPE, "int8"), [0.05])
    graph.op("QUANTIZE", [x], small)
    return graph.op("DEQUANTIZE", [small], _SHAPE, version=2)


def _missing() -> Cases:
    for name, kind in (
        ("L2_NORMALIZATION", "L2Norm"),
        ("LOG_SOFTMAX", None),
        ("LOCAL_RESPONSE_NORMALIZATION", "LocalResponseNormalization"),
    ):
        made = options(kind) if kind else None
        if name == "LOCAL_RESPONSE_NORMALIZATION":
            made.radius, made.bias, made.alpha, made.beta = 2, 1.0, 1.0, 0.5  # type: ignore[union-attr]
        yield single(name, _SHAPE, "float32", lambda g, x, n=name, m=made: g.op(n, [x], _SHAPE, options=m))
    for name, result in (("SPACE_TO_BATCH_ND", (4, 2, 2, 8)),):
        yield single(
            name,
            _SHAPE,
            "float32",
            lambda g, x, n=name, r=result: g.op(n, [x, g.const([2, 2]), g.const([[0, 0], [0, 0]])], r),
        )
    yield single(
        "BATCH_TO_SPACE_ND",
        (4, 2, 2, 8),
        "float32",
        lambda g, x: g.op("BATCH_TO_SPACE_ND", [x, g.const([2, 2]), g.const([[0, 0], [0, 0]])], _SHAPE),
    )
    yield single(
        "SHAPE",
        _SHAPE,
        "float32",
        lambda g, x: g.op("SHAPE", [x], (4,), dtype="int32", options=options("Shape", outType=2)),
    )
    yield single("ZEROS_LIKE", _SHAPE, "float32", lambda g, x: g.op("ZEROS_LIKE", [x], _SHAPE))
    yield single("FILL", (), "float32", lambda g, x: g.op("FILL", [g.const([4, 8]), x], (4, 8)))
    yield single("MATRIX_DIAG", (4, 8), "float32", lambda g, x: g.op("MATRIX_DIAG", [x], (4, 8, 8)))
    yield single("RANK", _SHAPE, "float32", lambda g, x: g.op("RANK", [x], (), dtype="int32"))
