"""Random shapes and attributes of the operations that have many, through saved bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtimes.mlprogram import reference as ref
from tests.runtimes.mlprogram.support import builder, predict_all, save_program

Array = np.ndarray
Draw = Callable[[st.SearchStrategy[Any]], Any]
Operation = tuple[list[Array], Callable[..., Any], Array]
EXAMPLES = 4


def _random(draw: Draw, *shape: int) -> Array:
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _sizes(low: int, high: int, count: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=count, max_size=count)


def _conv(draw: Draw) -> Operation:
    rank = draw(st.integers(1, 3))
    kernel, dilations = draw(_sizes(1, 3, rank)), draw(_sizes(1, 2, rank))
    strides, pad = draw(_sizes(1, 3, rank)), draw(_sizes(0, 2, 2 * rank))
    groups, per_in, per_out = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size = [draw(st.integers(5, 8)) for _ in range(rank)]
    x = _random(draw, draw(st.integers(1, 2)), groups * per_in, *size)
    weight = _random(draw, groups * per_out, per_in, *kernel)
    bias = _random(draw, groups * per_out)
    expected = ref.conv(x, weight, strides, pad, dilations, groups) + bias.reshape(-1, *[1] * rank)

    def build(mb: Any, x: Any) -> Any:
        attributes = {"strides": strides, "pad": pad, "dilations": dilations, "groups": groups}
        return mb.conv(x=x, weight=weight, bias=bias, pad_type="custom", **attributes)

    return [x], build, expected


def _conv_transpose(draw: Draw) -> Operation:
    rank = draw(st.integers(1, 2))
    kernel, dilations = draw(_sizes(2, 3, rank)), draw(_sizes(1, 2, rank))
    strides, pad = draw(_sizes(1, 3, rank)), draw(_sizes(0, 1, 2 * rank))
    size = [draw(st.integers(3, 5)) for _ in range(rank)]
    x = _random(draw, 2, draw(st.integers(1, 3)), *size)
    weight = _random(draw, x.shape[1], draw(st.integers(1, 3)), *kernel)
    expected = ref.conv_transpose(x, weight, strides, pad, dilations)

    def build(mb: Any, x: Any) -> Any:
        attributes = {"strides": strides, "pad": pad, "dilations": dilations}
        return mb.conv_transpose(x=x, weight=weight, pad_type="custom", **attributes)

    return [x], build, expected


def _slice(draw: Draw) -> Operation:
    shape = draw(_sizes(2, 6, 3))
    begin, end, stride, begin_mask, end_mask, slices = [], [], [], [], [], []
    for size in shape:
        first = draw(st.integers(0, size - 1))
        last = draw(st.integers(first + 1, size))
        step = draw(st.integers(1, 3))
        opened, closed = draw(st.booleans()), draw(st.booleans())
        from_end = draw(st.booleans())
        begin.append(first - size if from_end else first)
        end.append(last)
        stride.append(step)
        begin_mask.append(opened)
        end_mask.append(closed)
        slices.append(slice(None if opened else begin[-1], None if closed else last, step))
    x = _random(draw, *shape)

    def build(mb: Any, x: Any) -> Any:
        masks = {"begin_mask": begin_mask, "end_mask": end_mask}
        return mb.slice_by_index(x=x, begin=begin, end=end, stride=stride, **masks)

    return [x], build, x[tuple(slices)]


def _pad(draw: Draw) -> Operation:
    x = _random(draw, *draw(_sizes(3, 5, 3)))
    count = draw(st.integers(1, 3))
    pad = draw(_sizes(0, 2, 2 * count))
    mode = draw(st.sampled_from(["constant", "reflect", "replicate"]))
    widths = [(0, 0)] * (3 - count) + [(pad[2 * i], pad[2 * i + 1]) for i in range(count)]
    expected = np.pad(x, widths, mode={"replicate": "edge"}.get(mode, mode))  # type: ignore[call-overload]
    return [x], lambda mb, x: mb.pad(x=x, pad=pad, mode=mode), expected


def _rearrange(draw: Draw) -> Operation:
    x = _random(draw, *draw(_sizes(1, 4, 4)))
    perm = draw(st.permutations(range(4)))
    order = [axis - 4 if draw(st.booleans()) else axis for axis in perm]
    moved = np.transpose(x, perm)
    shape = [moved.shape[0] * moved.shape[1], -1] if draw(st.booleans()) else [0, -1, 0, 1]
    sizes = [moved.shape[0], -1, moved.shape[2], 1] if shape[0] == 0 else shape
    return [x], lambda mb, x: mb.reshape(x=mb.transpose(x=x, perm=order), shape=shape), moved.reshape(sizes)


def _reduce(draw: Draw) -> Operation:
    x = _random(draw, *draw(_sizes(1, 4, 4)))
    axes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True))
    signed = [axis - 4 if draw(st.booleans()) else axis for axis in axes]
    keep = draw(st.booleans())
    expected = x.astype(np.float64).mean(tuple(axes), keepdims=keep)
    return [x], lambda mb, x: mb.reduce_mean(x=x, axes=signed, keep_dims=keep), expected


def _matmul(draw: Draw) -> Operation:
    m, k, n = draw(_sizes(1, 4, 3))
    batch = draw(_sizes(1, 3, 2))
    left = [size if draw(st.booleans()) else 1 for size in batch]
    right = batch if draw(st.booleans()) else batch[1:]
    tx, ty = draw(st.booleans()), draw(st.booleans())
    x = _random(draw, *left, *((k, m) if tx else (m, k)))
    y = _random(draw, *right, *((n, k) if ty else (k, n)))
    expected = (np.swapaxes(x, -1, -2) if tx else x) @ (np.swapaxes(y, -1, -2) if ty else y)
    return [x, y], lambda mb, x, y: mb.matmul(x=x, y=y, transpose_x=tx, transpose_y=ty), expected


def _normalise(draw: Draw) -> Operation:
    x = _random(draw, *draw(_sizes(2, 5, 4)))
    axes = draw(st.sampled_from([[-1], [2, 3], [1], [1, 2, 3], [-1, -3]]))
    shape = [x.shape[axis] for axis in sorted(axis % 4 for axis in axes)]
    gamma, beta = _random(draw, *shape), _random(draw, *shape)
    whole = [x.shape[i] if i in {axis % 4 for axis in axes} else 1 for i in range(4)]
    centred = x.astype(np.float64) - x.mean(tuple(axes), keepdims=True, dtype=np.float64)
    scaled = centred / np.sqrt((centred**2).mean(tuple(axes), keepdims=True) + 1e-3)
    expected = scaled * gamma.reshape(whole) + beta.reshape(whole)

    def build(mb: Any, x: Any) -> Any:
        return mb.layer_norm(x=x, axes=axes, gamma=gamma, beta=beta, epsilon=1e-3)

    return [x], build, expected


def _gather(draw: Draw) -> Operation:
    x = _random(draw, *draw(_sizes(2, 4, 3)))
    axis = draw(st.integers(0, 2))
    indices = np.array(draw(_sizes(0, x.shape[axis] - 1, 4)), np.int32).reshape(draw(st.sampled_from([(4,), (2, 2)])))

    def build(mb: Any, x: Any, i: Any) -> Any:
        return mb.gather(x=x, indices=i, axis=axis - 3 if axis else 0)

    return [x, indices], build, np.take(x, indices, axis)


def _join(draw: Draw) -> Operation:
    shape, axis = draw(_sizes(1, 3, 3)), draw(st.integers(-3, 2))
    parts = [_random(draw, *shape) for _ in range(3)]
    sizes = [shape[axis], 2 * shape[axis]]

    def build(mb: Any, *parts: Any) -> Any:
        joined = mb.concat(values=parts, axis=axis)
        return mb.concat(values=mb.split(x=joined, split_sizes=sizes, axis=axis)[::-1], axis=axis)

    rolled = np.concatenate([*parts[1:], parts[0]], axis)
    return parts, build, rolled


OPERATIONS = (
    _conv,
    _conv_transpose,
    _slice,
    _pad,
    _rearrange,
    _reduce,
    _matmul,
    _normalise,
    _gather,
    _join,
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_random_attributes_match_the_definitions(data: st.DataObject) -> None:
    target = data.draw(st.sampled_from(["iOS16", "iOS17", "iOS18"]))
    drawn = [make(data.draw) for make in OPERATIONS]

    def build(*inputs: Any) -> Any:
        mb = builder()
        remaining = list(inputs)
        results = [make(mb, *[remaining.pop(0) for _ in arrays]) for arrays, make, _ in drawn]
        return tuple(mb.identity(x=result, name=f"y{i}") for i, result in enumerate(results))

    arrays = [array for inputs, _, _ in drawn for array in inputs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.mlpackage"
        save_program(build, [a.shape for a in arrays], path, target, [str(a.dtype) for a in arrays])
        actual = predict_all(path, arrays)
    for make, (_, _, expected), result in zip(OPERATIONS, drawn, actual, strict=True):
        assert result.shape == expected.shape, make.__name__
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4, err_msg=make.__name__)
