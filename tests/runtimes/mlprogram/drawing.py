"""Random operations with constant inputs, which coremltools' own `value_inference` computes while it builds them.

Each function draws one operation: its type and its parameters as coremltools takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

Array = np.ndarray
Draw = Callable[[st.SearchStrategy[Any]], Any]
Drawn = tuple[str, dict[str, Any]]

_ANYWHERE = ("abs", "atan", "ceil", "cos", "erf", "exp", "exp2", "floor", "round", "sign", "sin", "square", "tanh")
_ACTIVATIONS = ("relu", "relu6", "sigmoid", "softplus", "softsign", "cosh", "sinh", "identity")
_ONE = ("leaky_relu", "elu", "threshold", "thresholded_relu")
_TWO = ("clamped_relu", "linear_activation", "scaled_tanh", "sigmoid_hard")
_FLOAT_PAIRS = ("add", "sub", "mul", "maximum", "minimum", "real_div", "floor_div", "mod")
_INT_PAIRS = ("add", "sub", "mul", "maximum", "minimum", "floor_div", "mod")
_COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
_LOGICS = ("logical_and", "logical_or", "logical_xor")
_REDUCTIONS = ("mean", "sum", "prod", "max", "min", "l1_norm", "l2_norm", "sum_square", "log_sum", "log_sum_exp")


def shape(draw: Draw, rank: int, high: int = 4) -> list[int]:
    """Returns a shape without zeros."""
    return draw(st.lists(st.integers(1, high), min_size=rank, max_size=rank))


def numbers(draw: Draw, *sizes: int) -> Array:
    """Returns float32 numbers of a few units."""
    return (2 * np.random.default_rng(draw(st.integers(0, 2**32 - 1))).standard_normal(sizes)).astype(np.float32)


def integers(draw: Draw, low: int, high: int, *sizes: int) -> Array:
    """Returns int32 numbers from low to high - 1."""
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(low, high, sizes).astype(np.int32)


def _axis(draw: Draw, rank: int) -> int:
    return draw(st.integers(-rank, rank - 1))


def _rank(draw: Draw, low: int = 1, high: int = 5) -> int:
    return draw(st.integers(low, high))


def unary(draw: Draw) -> Drawn:
    """Functions of one number."""
    kind = draw(st.sampled_from((*_ANYWHERE, *_ACTIVATIONS, "sqrt", "acos", "asin", "atanh", "tan")))
    x = numbers(draw, *shape(draw, _rank(draw)))
    if kind == "sqrt":
        x = np.abs(x)
    return kind, {"x": np.tanh(x) if kind in ("acos", "asin", "atanh", "tan") else x}


def parametric(draw: Draw) -> Drawn:
    """Functions of one number with parameters."""
    x = numbers(draw, *shape(draw, _rank(draw, 3, 4)))
    alpha, beta = draw(st.sampled_from([0.1, 0.5, 1.5])), draw(st.sampled_from([0.0, 0.25, 2.0]))
    others = ("clip", "rsqrt", "log", "inverse", "gelu", "prelu", "softplus_parametric")
    kind = draw(st.sampled_from((*_ONE, *_TWO, *others)))
    if kind in _ONE:
        return kind, {"x": x, "alpha": alpha}
    if kind in _TWO or kind == "clip":
        return kind, {"x": x, "alpha": alpha, "beta": alpha + beta + 0.5 if kind == "clip" else beta}
    if kind == "gelu":
        mode = draw(st.sampled_from(["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"]))
        return kind, {"x": x, "mode": mode}
    if kind in ("rsqrt", "log", "inverse"):
        return kind, {"x": np.abs(x) + np.float32(0.1), "epsilon": alpha}
    if kind == "prelu":  # coremltools wants equal slopes but for images
        return kind, {"x": x, "alpha": numbers(draw, x.shape[1]) if x.ndim == 4 else np.full(x.shape[1], alpha, "f4")}
    return kind, {"x": x, "alpha": numbers(draw, x.shape[1]), "beta": numbers(draw, x.shape[1])}


def _pair(draw: Draw) -> tuple[list[int], list[int]]:
    """Returns two shapes that broadcast."""
    whole = shape(draw, _rank(draw, 1, 4))
    left = [size if draw(st.booleans()) else 1 for size in whole]
    right = whole[draw(st.integers(0, len(whole) - 1)) :]
    return (left, right) if draw(st.booleans()) else (right, left)


def binary(draw: Draw) -> Drawn:
    """Functions of two numbers that broadcast."""
    left, right = _pair(draw)
    if draw(st.booleans()):
        kind = draw(st.sampled_from((*_INT_PAIRS, *_COMPARISONS)))
        x, y = integers(draw, -9, 10, *left), integers(draw, -9, 10, *right)
        return kind, {"x": x, "y": np.where(y == 0, 3, y) if kind in ("floor_div", "mod") else y}
    kind = draw(st.sampled_from((*_FLOAT_PAIRS, "pow")))
    x, y = numbers(draw, *left), numbers(draw, *right)
    if kind == "pow":
        return kind, {"x": np.abs(x) + np.float32(0.1), "y": y}
    return kind, {"x": x, "y": y + np.copysign(np.float32(0.3), y)}


def logic(draw: Draw) -> Drawn:
    """Truth values and choices."""
    left, right = _pair(draw)
    kind = draw(st.sampled_from((*_LOGICS, "logical_not", "select")))
    x, y = (integers(draw, 0, 2, *sizes).astype(bool) for sizes in (left, right))
    if kind == "logical_not":
        return kind, {"x": x}
    if kind == "select":
        return kind, {"cond": x, "a": numbers(draw, *x.shape), "b": numbers(draw, *x.shape)}
    return kind, {"x": x, "y": y}


def conversion(draw: Draw) -> Drawn:
    """Conversions between types."""
    x = 20 * numbers(draw, *shape(draw, _rank(draw)))
    if draw(st.booleans()):
        return "cast", {"x": x, "dtype": draw(st.sampled_from(["int32", "fp16", "bool"]))}
    return "cast", {"x": x.astype(np.int32), "dtype": draw(st.sampled_from(["fp32", "fp16", "bool"]))}


def reduction(draw: Draw) -> Drawn:
    """Reductions over some axes."""
    rank = _rank(draw)
    x = np.abs(numbers(draw, *shape(draw, rank))) + np.float32(0.1)
    keep = draw(st.booleans())
    if draw(st.integers(0, 5)) == 0:
        kind = draw(st.sampled_from(["reduce_argmax", "reduce_argmin"]))
        return kind, {"x": x, "axis": _axis(draw, rank), "keep_dims": keep}
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    signed = [axis - rank if draw(st.booleans()) else axis for axis in axes]
    return f"reduce_{draw(st.sampled_from(_REDUCTIONS))}", {"x": x, "axes": signed, "keep_dims": keep}


def along(draw: Draw) -> Drawn:
    """Softmax and cumulative sums."""
    rank = _rank(draw)
    x = numbers(draw, *shape(draw, rank))
    if draw(st.booleans()):
        return "softmax", {"x": x, "axis": _axis(draw, rank)}
    # `exclusive` cannot be drawn: coremltools' own computation of it raises a TypeError.
    return "cumsum", {"x": x, "axis": draw(st.integers(0, rank - 1)), "reverse": draw(st.booleans())}


def product(draw: Draw) -> Drawn:
    """Matrix products, sums over indices and attention."""
    m, k, n, b, h = shape(draw, 5)
    kind = draw(st.sampled_from(["matmul", "linear", "einsum", "scaled_dot_product_attention"]))
    if kind == "matmul":
        flags = {name: draw(st.booleans()) for name in ("transpose_x", "transpose_y")}
        left, right = [b, h], draw(st.sampled_from([[], [h], [1, h], [b, h]]))
        x = numbers(draw, *left, *((k, m) if flags["transpose_x"] else (m, k)))
        y = numbers(draw, *right, *((n, k) if flags["transpose_y"] else (k, n)))
        return kind, {"x": x, "y": y, **flags}
    if kind == "linear":
        x = numbers(draw, *shape(draw, _rank(draw, 0, 2)), m, k)
        return kind, {"x": x, "weight": numbers(draw, n, k), "bias": numbers(draw, n)}
    if kind == "einsum":
        batch = [b] if draw(st.booleans()) else []
        values = numbers(draw, *batch, m, h, k), numbers(draw, *batch, k, h, n)
        return kind, {"values": values, "equation": "nchw,nwhu->nchu" if batch else "chw,whr->chr"}
    batch = [b, h] if draw(st.booleans()) else [b]
    operands = {"query": numbers(draw, *batch, m, k), "key": numbers(draw, *batch, n, k)}
    operands["value"] = numbers(draw, *batch, n, k + 1)
    mask = draw(st.sampled_from(["none", "float", "bool"]))
    if mask == "float":
        operands["attn_mask"] = numbers(draw, *batch, m, n)
    elif mask == "bool":
        operands["attn_mask"] = (integers(draw, 0, 2, m, n) | np.eye(m, n, dtype=np.int32)).astype(bool)
        operands["attn_mask"][:, 0] = True
    return kind, operands


def norm(draw: Draw) -> Drawn:
    """Layer and L2 norms."""
    rank = _rank(draw, 3, 4)
    x = numbers(draw, *(size + 1 for size in shape(draw, rank)))
    if draw(st.booleans()):
        return "l2_norm", {"x": x, "epsilon": 0.01}
    first = draw(st.integers(0, rank - 1))
    axes = list(range(first, rank))
    sizes = x.shape[first:]
    given = {"gamma": numbers(draw, *sizes), "beta": numbers(draw, *sizes)} if draw(st.booleans()) else {}
    return "layer_norm", {"x": x, "axes": [axis - rank for axis in axes], "epsilon": 0.05, **given}


def arrangement(draw: Draw) -> Drawn:
    """Changes of shape and order."""
    rank = _rank(draw, 1, 4)
    x = numbers(draw, *shape(draw, rank))
    kind = draw(
        st.sampled_from(["transpose", "reshape", "expand_dims", "squeeze", "tile", "reverse", "flatten2d", "shape"])
    )
    if kind == "transpose":
        return kind, {
            "x": x,
            "perm": [p - rank if draw(st.booleans()) else p for p in draw(st.permutations(range(rank)))],
        }
    if kind == "reshape":
        sizes = draw(st.permutations([*x.shape, 1]))
        sizes[draw(st.integers(0, rank))] = -1
        return kind, {"x": x, "shape": sizes}
    if kind == "expand_dims":
        axes = draw(st.lists(st.integers(0, rank), min_size=1, max_size=2, unique=True))
        return kind, {"x": x, "axes": sorted(axes)}
    if kind == "squeeze":
        # At least two elements: coremltools fails where a scalar remains.
        x = np.expand_dims(np.concatenate([x, x]), (0, -1))
        return kind, {"x": x} if draw(st.booleans()) else {"x": x, "axes": draw(st.sampled_from([[0], [-1], [0, -1]]))}
    if kind == "tile":
        return kind, {"x": x, "reps": shape(draw, rank, 3)}
    if kind == "reverse":
        return kind, {"x": x, "axes": draw(st.lists(st.integers(0, rank - 1), min_size=1, unique=True))}
    if kind == "flatten2d" and rank == 1:  # coremltools fails where no axis is left for the second size
        return "shape", {"x": x}
    return kind, {"x": x, **({"axis": draw(st.integers(1, rank - 1))} if kind == "flatten2d" else {})}


def joining(draw: Draw) -> Drawn:
    """Joining and cutting."""
    rank = _rank(draw, 1, 4)
    sizes, axis = shape(draw, rank), _axis(draw, rank)
    kind = draw(st.sampled_from(["concat", "stack", "split"]))
    if kind == "stack":
        return kind, {"values": tuple(numbers(draw, *sizes) for _ in range(3)), "axis": draw(st.integers(0, rank))}
    parts = shape(draw, 3)
    if kind == "concat":
        each = [[*sizes[: axis % rank], part, *sizes[axis % rank + 1 :]] for part in parts]
        return kind, {"values": tuple(numbers(draw, *part) for part in each), "axis": axis}
    sizes[axis] = sum(parts)
    return kind, {"x": numbers(draw, *sizes), "split_sizes": parts, "axis": axis}


def padding(draw: Draw) -> Drawn:
    """Padding."""
    rank = _rank(draw, 1, 4)
    x = numbers(draw, *(size + 2 for size in shape(draw, rank)))
    mode = draw(st.sampled_from(["constant", "reflect", "replicate"]))
    count = draw(st.integers(1, min(rank, 2)))
    widths = draw(st.lists(st.integers(0, 2), min_size=2 * count, max_size=2 * count))
    return "pad", {"x": x, "pad": widths, "mode": mode, "constant_val": 0.5}


def _slice(draw: Draw, sizes: list[int]) -> dict[str, Any]:
    """Returns the attributes of a slice that takes at least one element."""
    rows: dict[str, list[Any]] = {
        name: [] for name in ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    }
    for size in sizes:
        first = draw(st.integers(0, size - 1))
        last = draw(st.integers(first + 1, size))
        rows["begin"].append(first - size if draw(st.booleans()) else first)
        rows["end"].append(last)
        rows["stride"].append(draw(st.integers(1, 3)))
        for mask in ("begin_mask", "end_mask"):
            rows[mask].append(draw(st.booleans()))
        rows["squeeze_mask"].append(len(sizes) > 1 and draw(st.integers(0, 4)) == 0)
    if all(rows["squeeze_mask"]):
        rows["squeeze_mask"][0] = False
    for axis, squeezed in enumerate(rows["squeeze_mask"]):
        if squeezed:
            rows["begin_mask"][axis] = rows["end_mask"][axis] = False
    return rows


def slicing(draw: Draw) -> Drawn:
    """Slices, and writing into them."""
    sizes = [size + 1 for size in shape(draw, _rank(draw, 1, 4))]
    x = numbers(draw, *sizes)
    kind = draw(st.sampled_from(["slice_by_index", "slice_update", "slice_by_size"]))
    if kind == "slice_by_size":
        begin = [draw(st.integers(0, size - 1)) for size in sizes]
        count = [draw(st.integers(1, size - first)) for size, first in zip(sizes, begin, strict=True)]
        return kind, {"x": x, "begin": begin, "size": [-1 if draw(st.integers(0, 3)) == 0 else n for n in count]}
    rows = _slice(draw, sizes)
    if kind == "slice_by_index":
        return kind, {"x": x, **rows}
    rows.pop("squeeze_mask")
    taken = x[
        tuple(
            slice(None if opened else first, None if closed else last, step)
            for first, last, step, opened, closed in zip(*rows.values(), strict=True)
        )
    ]
    return kind, {"x": x, "update": numbers(draw, *taken.shape), **rows}


def gathering(draw: Draw) -> Drawn:
    """Gathers and scatters along an axis."""
    rank = _rank(draw, 1, 3)
    sizes = [size + 1 for size in shape(draw, rank)]
    axis = draw(st.integers(0, rank - 1))
    x = numbers(draw, *sizes)
    kind = draw(st.sampled_from(["gather", "gather_along_axis", "scatter_along_axis"]))
    if kind == "gather":
        return kind, {"x": x, "indices": integers(draw, 0, sizes[axis], *shape(draw, _rank(draw, 1, 2))), "axis": axis}
    count = draw(st.integers(1, sizes[axis]))
    order = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random(sizes).argsort(axis)
    indices = np.take(order, range(count), axis).astype(np.int32)
    if kind == "gather_along_axis":
        return kind, {"x": x, "indices": indices, "axis": axis}
    # The other modes cannot be drawn: coremltools' own computation ignores the mode.
    updates = numbers(draw, *indices.shape)
    return kind, {"data": x, "indices": indices, "updates": updates, "axis": axis, "mode": "update"}


def creation(draw: Draw) -> Drawn:
    """Tensors made from numbers, bands and positions."""
    kind = draw(st.sampled_from(["fill", "range_1d", "band_part", "non_zero", "fill_like"]))
    sizes = shape(draw, _rank(draw, 2, 4))
    if kind == "fill":
        return kind, {"shape": sizes, "value": 1.5}
    if kind == "fill_like":
        return kind, {"ref_tensor": numbers(draw, *sizes), "value": 2.5}
    if kind == "range_1d":
        start, step = draw(st.integers(-5, 5)), draw(st.integers(1, 3))
        return kind, {"start": start, "end": start + draw(st.integers(1, 9)), "step": step}
    if kind == "non_zero":
        return kind, {"x": integers(draw, 0, 2, *sizes)}
    return kind, {"x": numbers(draw, *sizes), "lower": draw(st.integers(-1, 3)), "upper": draw(st.integers(-1, 3))}


def quantisation(draw: Draw) -> Drawn:
    """Activations of eight bits."""
    rank = _rank(draw, 1, 4)
    x = numbers(draw, *shape(draw, rank))
    dtype = draw(st.sampled_from([np.int8, np.uint8]))
    limits = np.iinfo(dtype)
    if draw(st.booleans()):
        scale, zero = np.float32(0.03), dtype(draw(st.integers(limits.min, limits.max)))
        return "quantize", {"input": x, "scale": scale, "zero_point": zero, "output_dtype": np.dtype(dtype).name}
    axis = _axis(draw, rank)
    scales = np.abs(numbers(draw, x.shape[axis])) / np.float32(40) + np.float32(0.01)
    zeros = integers(draw, limits.min, limits.max + 1, x.shape[axis]).astype(dtype)
    return "quantize", {
        "input": x,
        "scale": scales,
        "zero_point": zeros,
        "axis": axis,
        "output_dtype": np.dtype(dtype).name,
    }


DRAWERS: tuple[Callable[[Draw], Drawn], ...] = (
    unary,
    parametric,
    binary,
    logic,
    conversion,
    reduction,
    along,
    product,
    norm,
    arrangement,
    joining,
    padding,
    slicing,
    gathering,
    creation,
    quantisation,
)

_OTHERS = """
acos asin atanh band_part cast clip concat cumsum einsum expand_dims fill fill_like flatten2d gather gather_along_axis
gelu inverse l2_norm layer_norm linear log logical_not matmul non_zero pad pow prelu quantize range_1d reshape reverse
rsqrt scaled_dot_product_attention scatter_along_axis select shape slice_by_index slice_by_size slice_update softmax
softplus_parametric split sqrt squeeze stack tan tile transpose
"""
_TUPLES = (_ANYWHERE, _ACTIVATIONS, _ONE, _TWO, _FLOAT_PAIRS, _INT_PAIRS, _COMPARISONS, _LOGICS)
KINDS = {
    *(kind for kinds in _TUPLES for kind in kinds),
    *(f"reduce_{name}" for name in (*_REDUCTIONS, "argmax", "argmin")),
    *_OTHERS.split(),
}
"""The operation types that the functions above draw."""
