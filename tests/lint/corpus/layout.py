"""Operators that move values: reshape, transpose, slices, padding."""

from __future__ import annotations

import numpy as np

from tests.lint.corpus.case import Cases, label, single
from tests.lint.corpus.graph import Graph, Shape, options

_SHAPE = (1, 4, 4, 8)


def cases() -> Cases:
    """Yields all cases of this file."""
    yield from _reshape()
    yield from _transpose()
    yield from _slices()
    yield from _strided()
    yield from _padding()


def _reshape() -> Cases:
    for shape in ((128,), (16, 8), (4, 4, 8), (2, 2, 4, 8), (1, 2, 2, 4, 8), (1, 1, 2, 2, 4, 8)):
        yield single(
            f"RESHAPE to {label(shape)}",
            _SHAPE,
            "float32",
            lambda g, x, s=shape: g.op(
                "RESHAPE", [x, g.const(list(s))], s, options=options("Reshape", newShape=list(s))
            ),
        )
    for dtype in ("int32", "int64", "bool"):
        yield single(
            f"RESHAPE {dtype}",
            _SHAPE,
            dtype,
            lambda g, x, d=dtype: g.op("RESHAPE", [x, g.const([16, 8])], (16, 8), dtype=d),
        )
    yield single("RESHAPE inside rank 5", _SHAPE, "float32", _through_rank_5)
    for name, result in (("SQUEEZE", (4, 4, 8)), ("EXPAND_DIMS", (1, 1, 4, 4, 8))):
        made = options("Squeeze", squeezeDims=[0]) if name == "SQUEEZE" else None
        yield single(
            name,
            _SHAPE,
            "float32",
            lambda g, x, n=name, r=result, m=made: g.op(n, [x] if m else [x, g.const(0)], r, options=m),
        )


def _through_rank_5(graph: Graph, x: int) -> list[int]:
    wide = graph.op("RESHAPE", [x, graph.const([1, 2, 2, 4, 8])], (1, 2, 2, 4, 8))
    return graph.op("RESHAPE", [wide[0], graph.const(list(_SHAPE))], _SHAPE)


def _transpose() -> Cases:
    for shape, order in (
        ((4, 8), (1, 0)),
        ((2, 4, 8), (0, 2, 1)),
        ((2, 4, 8), (2, 0, 1)),
        ((1, 4, 6, 8), (0, 3, 1, 2)),
        ((2, 4, 6, 8), (0, 2, 1, 3)),
        ((1, 2, 4, 6, 8), (0, 1, 2, 4, 3)),
        ((1, 2, 4, 2, 4, 8), (0, 1, 3, 5, 2, 4)),
        ((8,), (0,)),
    ):
        result = tuple(shape[axis] for axis in order)
        yield single(
            f"TRANSPOSE {label(shape)} by {''.join(map(str, order))}",
            shape,
            "float32",
            lambda g, x, o=order, r=result: g.op("TRANSPOSE", [x, g.const(list(o))], r, options=options("Transpose")),
        )
    for version in (2, 4, 5, 6):
        yield single(
            f"TRANSPOSE version {version}",
            (4, 8),
            "float32",
            lambda g, x, v=version: g.op("TRANSPOSE", [x, g.const([1, 0])], (8, 4), version=v),
        )
    for dtype in ("int32", "int64", "bool"):
        yield single(
            f"TRANSPOSE {dtype}",
            (4, 8),
            dtype,
            lambda g, x, d=dtype: g.op("TRANSPOSE", [x, g.const([1, 0])], (8, 4), dtype=d),
        )


def _slices() -> Cases:
    for shape, begin, size in (
        ((8,), (2,), (4,)),
        ((4, 8), (1, 2), (2, 4)),
        ((2, 4, 8), (0, 1, 2), (2, 2, 4)),
        ((1, 4, 4, 8), (0, 1, 0, 2), (1, 2, 4, 4)),
        ((2, 4, 4, 8), (1, 1, 0, 2), (1, -1, 4, -1)),
        ((1, 1, 4, 4, 8), (0, 0, 1, 0, 0), (1, 1, 2, 4, 8)),
    ):
        result = tuple(s - b if n == -1 else n for s, b, n in zip(shape, begin, size, strict=True))
        yield single(
            f"SLICE {label(shape)} from {begin}",
            shape,
            "float32",
            lambda g, x, b=begin, n=size, r=result: g.op(
                "SLICE", [x, g.const(list(b)), g.const(list(n))], r, options=options("Slice")
            ),
        )
    for version in (2, 3, 5, 6):
        yield single(
            f"SLICE version {version}",
            (2, 4, 8),
            "float32",
            lambda g, x, v=version: g.op("SLICE", [x, g.const([0, 1, 2]), g.const([2, 2, 4])], (2, 2, 4), version=v),
        )
    yield single(
        "SLICE int64 begin",
        (2, 4, 8),
        "float32",
        lambda g, x: g.op("SLICE", [x, g.const([0, 1, 2], "int64"), g.const([2, 2, 4], "int64")], (2, 2, 4)),
    )
    yield single(
        "SLICE int32",
        (4, 8),
        "int32",
        lambda g, x: g.op("SLICE", [x, g.const([1, 2]), g.const([2, 4])], (2, 4), dtype="int32"),
    )


def _strided() -> Cases:
    full = (1, 4, 4, 8)
    for title, shape, begin, end, stride, fields in (
        ("stride 1", full, (0, 1, 0, 2), (1, 3, 4, 6), (1, 1, 1, 1), {}),
        ("stride 2", full, (0, 0, 0, 0), (1, 4, 4, 8), (1, 2, 2, 1), {}),
        ("channel stride 2", full, (0, 0, 0, 0), (1, 4, 4, 8), (1, 1, 1, 2), {}),
        ("masks", full, (0, 1, 1, 2), (0, 3, 0, 0), (1, 1, 1, 1), {"beginMask": 1, "endMask": 13}),
        ("negative end", full, (0, 0, 0, 0), (1, -1, -2, 8), (1, 1, 1, 1), {}),
        ("negative stride", full, (0, 3, 0, 0), (1, 0, 4, 8), (1, -1, 1, 1), {}),
        ("shrink", full, (0, 1, 0, 0), (1, 2, 4, 8), (1, 1, 1, 1), {"shrinkAxisMask": 2}),
        ("ellipsis", full, (0, 2), (0, 6), (1, 1), {"ellipsisMask": 1}),
        ("new axis", (4, 4, 8), (0, 0, 0, 0), (1, 4, 4, 8), (1, 1, 1, 1), {"newAxisMask": 1}),
        ("fewer indices", full, (0, 1, 0), (1, 3, 4), (1, 1, 1), {}),
        ("rank 3", (2, 4, 8), (0, 1, 2), (2, 3, 6), (1, 1, 1), {}),
        ("rank 2", (4, 8), (1, 2), (3, 6), (1, 1), {}),
        ("rank 1", (8,), (2,), (6,), (1,), {}),
        ("rank 5", (1, 1, 4, 4, 8), (0, 0, 1, 0, 0), (1, 1, 3, 4, 8), (1, 1, 1, 1, 1), {}),
    ):
        yield single(
            f"STRIDED_SLICE {title}",
            shape,
            "float32",
            lambda g, x, b=begin, e=end, s=stride, f=fields, i=shape: _strided_slice(g, x, i, b, e, s, f),
        )
    for version in (2, 3, 4, 5):
        yield single(
            f"STRIDED_SLICE version {version}",
            full,
            "float32",
            lambda g, x, v=version: _strided_slice(g, x, full, (0, 1, 0, 2), (1, 3, 4, 6), (1, 1, 1, 1), {}, v),
        )


def _strided_slice(
    graph: Graph,
    x: int,
    shape: Shape,
    begin: Shape,
    end: Shape,
    stride: Shape,
    fields: dict[str, int],
    version: int = 1,
) -> list[int]:
    """Adds a slice whose result shape numpy tells."""
    index: list[slice | int | None] = []
    ellipsis = fields.get("ellipsisMask", 0)
    for i, (b, e, s) in enumerate(zip(begin, end, stride, strict=True)):
        bit = 1 << i
        if ellipsis & bit:
            index.append(Ellipsis)  # pyright: ignore[reportArgumentType]
        elif fields.get("newAxisMask", 0) & bit:
            index.append(None)
        elif fields.get("shrinkAxisMask", 0) & bit:
            index.append(b)
        else:
            first = None if fields.get("beginMask", 0) & bit else b
            last = None if fields.get("endMask", 0) & bit else e
            index.append(slice(first, last, s))
    result = np.empty(shape, np.bool_)[tuple(index)].shape
    inputs = [x, graph.const(list(begin)), graph.const(list(end)), graph.const(list(stride))]
    return graph.op("STRIDED_SLICE", inputs, result, options=options("StridedSlice", **fields), version=version)


def _padding() -> Cases:
    for shape, pads in (
        ((1, 4, 4, 8), ((0, 0), (1, 1), (1, 2), (0, 0))),
        ((1, 4, 4, 8), ((0, 0), (0, 0), (0, 0), (2, 3))),
        ((2, 4, 4, 8), ((1, 0), (0, 0), (0, 0), (0, 0))),
        ((1, 4, 4, 8), ((1, 0), (0, 0), (0, 0), (0, 0))),
        ((1, 4, 4, 8), ((0, 1), (0, 0), (0, 0), (0, 0))),
        ((2, 4, 4, 8), ((0, 1), (0, 0), (0, 0), (0, 0))),
        ((1, 4, 4, 8), ((1, 0), (0, 0), (1, 0), (0, 0))),
        ((1, 4, 4, 8), ((0, 1), (1, 0), (0, 0), (0, 0))),
        ((2, 4, 4, 8), ((1, 1), (1, 1), (1, 1), (1, 1))),
        ((2, 4, 8), ((0, 0), (1, 1), (0, 0))),
        ((1, 4, 8), ((0, 0), (1, 1), (0, 0))),
        ((1, 4, 8), ((0, 0), (0, 0), (1, 2))),
        ((1, 4, 8), ((1, 0), (0, 0), (0, 0))),
        ((4, 8), ((1, 1), (0, 2))),
        ((8,), ((1, 1),)),
        ((1, 1, 4, 4, 8), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))),
    ):
        result = tuple(s + a + b for s, (a, b) in zip(shape, pads, strict=True))
        for name in ("PAD", "PADV2"):
            yield single(
                f"{name} {label(shape)} by {[p for pair in pads for p in pair]}",
                shape,
                "float32",
                lambda g, x, n=name, p=pads, r=result: g.op(
                    n, [x, g.const([list(q) for q in p]), *([g.const(2.5, "float32")] if n == "PADV2" else [])], r
                ),
            )
    pads = [[0, 0], [1, 1], [1, 1], [0, 0]]
    for mode, title in ((0, "reflect"), (1, "symmetric")):
        made = options("MirrorPad", mode=mode)
        yield single(
            f"MIRROR_PAD {title}",
            _SHAPE,
            "float32",
            lambda g, x, m=made: g.op("MIRROR_PAD", [x, g.const(pads)], (1, 6, 6, 8), options=m),
        )
    for version in (2, 3, 4):
        yield single(
            f"PAD version {version}",
            _SHAPE,
            "float32",
            lambda g, x, v=version: g.op("PAD", [x, g.const(pads)], (1, 6, 6, 8), version=v),
        )
