"""One case per operation and interesting attribute, with the expected result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.runtimes.mlprogram import reference as ref

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """An operation on given inputs.

    Args:
        name: readable name.
        inputs: float32 or int32 arrays.
        build: adds the operation to a program, given pymil's builder and the inputs.
        expected: the result, or None for what coremltools infers when the inputs are constants.
        targets: deployment targets at which the operation exists in this form.
    """

    name: str
    inputs: Sequence[Array]
    build: Callable[..., Any]
    expected: Array | None = None
    targets: tuple[str, ...] = ("iOS16", "iOS17", "iOS18")


_RANDOM = np.random.default_rng(0)
IOS17 = ("iOS17", "iOS18")
IOS18 = ("iOS18",)


def _x(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def _positive(*shape: int) -> Array:
    return np.abs(_x(*shape)) + np.float32(0.5)


def _ints(high: int, *shape: int) -> Array:
    return _RANDOM.integers(0, high, shape).astype(np.int32)


def _unary(name: str, values: Array, **attributes: Any) -> Case:
    return Case(name, [values], lambda mb, x: getattr(mb, name)(x=x, **attributes))


def _binary(name: str, x: Array, y: Array, as_bool: bool = False) -> Case:
    def build(mb: Any, a: Any, b: Any) -> Any:
        result = getattr(mb, name)(x=a, y=b)
        return mb.cast(x=result, dtype="int32") if as_bool else result

    return Case(f"{name}_{x.dtype}", [x, y], build)


def elementwise() -> list[Case]:
    """Unary, binary and activation operations."""
    anything = ("abs", "ceil", "cos", "erf", "exp", "exp2", "floor", "round", "sign", "sin", "square", "tan", "tanh")
    activations = ("relu", "relu6", "sigmoid", "softplus", "softsign", "atan", "cosh", "sinh")
    cases = [_unary(name, 2 * _x(3, 4)) for name in (*anything, *activations)]
    cases += [_unary(name, _positive(3, 4)) for name in ("sqrt",)]
    cases += [_unary(name, np.tanh(_x(3, 4))) for name in ("acos", "asin", "atanh")]
    cases += [_unary(name, _positive(3, 4), epsilon=0.25) for name in ("rsqrt", "log", "inverse")]
    cases += [_unary(name, _x(3, 4), alpha=0.3) for name in ("leaky_relu", "elu", "threshold")]
    for name in ("clip", "clamped_relu", "linear_activation", "scaled_tanh", "sigmoid_hard"):
        cases.append(_unary(name, 2 * _x(3, 4), alpha=0.2, beta=0.7))
    x = 2 * _x(3, 4)
    cases.append(Case("silu", [x], lambda mb, x: mb.silu(x=x), x / (1 + np.exp(-x))))
    y = _x(3, 4)
    cases.append(Case("thresholded_relu", [y], lambda mb, x: mb.thresholded_relu(x=x, alpha=0.1), y * (y >= 0.1)))
    cases.append(_unary("prelu", _x(2, 3, 2, 2), alpha=np.array([0.1, 0.2, 0.3], np.float32)))
    for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"):
        cases.append(_unary("gelu", 2 * _x(3, 4), mode=mode))
    for name in ("add", "sub", "mul", "maximum", "minimum", "real_div"):
        cases.append(_binary(name, _x(2, 3, 1), _positive(3, 4)))
    for name in ("add", "sub", "mul", "maximum", "minimum", "floor_div", "mod"):
        cases.append(_binary(name, _ints(20, 2, 3, 4) - np.int32(10), _ints(5, 4) + np.int32(1)))
    cases += [_binary(name, 4 * _x(3, 4), _positive(3, 4)) for name in ("floor_div", "mod")]
    cases.append(_binary("pow", _positive(3, 4), _x(3, 1)))
    for name in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal"):
        cases.append(_binary(name, _ints(3, 3, 4), _ints(3, 3, 4), as_bool=True))
    return cases


def _logical(name: str) -> Case:
    def build(mb: Any, a: Any, b: Any) -> Any:
        result = getattr(mb, name)(x=mb.cast(x=a, dtype="bool"), y=mb.cast(x=b, dtype="bool"))
        return mb.cast(x=result, dtype="int32")

    return Case(name, [_ints(2, 3, 4), _ints(2, 3, 4)], build)


def _select(mb: Any, c: Any, a: Any, b: Any) -> Any:
    return mb.select(cond=mb.cast(x=c, dtype="bool"), a=a, b=b)


def logic() -> list[Case]:
    """Logic, selection and conversion."""
    cases = [_logical(name) for name in ("logical_and", "logical_or", "logical_xor")]

    def negated(mb: Any, x: Any) -> Any:
        return mb.cast(x=mb.logical_not(x=mb.cast(x=x, dtype="bool")), dtype="int32")

    cases.append(Case("logical_not", [_ints(2, 3, 4)], negated))
    cases.append(Case("select", [_ints(2, 3, 4), _x(3, 4), _x(3, 4)], _select))
    cases.append(Case("cast_int", [5 * _x(3, 4)], lambda mb, x: mb.cast(x=x, dtype="int32")))
    cases.append(Case("cast_float", [_ints(9, 3, 4)], lambda mb, x: mb.cast(x=x, dtype="fp32")))

    def narrow(mb: Any, x: Any) -> Any:
        return mb.cast(x=mb.cast(x=x, dtype="int16"), dtype="int32")

    cases.append(Case("cast_int16", [100 * _x(3, 4)], narrow, targets=IOS17))
    return cases


def reductions() -> list[Case]:
    """Reductions, softmax and cumulative sums."""
    names = ("mean", "sum", "prod", "max", "min", "l1_norm", "l2_norm", "sum_square", "log_sum", "log_sum_exp")
    cases = []
    for name in names:
        cases.append(_unary(f"reduce_{name}", _positive(2, 3, 4), axes=[1, -1], keep_dims=False))
        cases.append(_unary(f"reduce_{name}", _positive(2, 3, 4), axes=[0], keep_dims=True))
    cases += [_unary(f"reduce_{name}", _ints(9, 2, 3, 4), axes=[1]) for name in ("sum", "max", "min")]
    cases += [_unary(f"reduce_{name}", _x(2, 3, 4), axis=1) for name in ("argmax", "argmin")]
    cases.append(_unary("reduce_argmax", _x(2, 3, 4), keep_dims=True))
    cases += [_unary("softmax", 3 * _x(2, 3, 4)), _unary("softmax", 3 * _x(2, 3, 4), axis=1)]
    for reverse in (False, True):
        x = _x(2, 3, 4)
        total = np.flip(np.cumsum(np.flip(x, 1), 1), 1) if reverse else np.cumsum(x, 1)
        for exclusive in (False, True):
            attributes = {"axis": 1, "reverse": reverse, "exclusive": exclusive}
            expected = total - x if exclusive else total
            cases.append(Case("cumsum", [x], lambda mb, x, a=attributes: mb.cumsum(x=x, **a), expected))
    return cases


def products() -> list[Case]:
    """Matrix products and attention."""
    w, b = _x(5, 4), _x(5)
    cases = [_unary("linear", _x(2, 3, 4), weight=w, bias=b), _unary("linear", _x(3, 4), weight=w)]
    whole = np.arange(20, dtype=np.int32).reshape(5, 4) - 7
    x, low = _x(3, 4), np.arange(5, dtype=np.int32)
    mixed = {"weight": whole, "bias": low}
    cases += [
        Case("linear_of_integers", [x], lambda mb, x: mb.linear(x=x, **mixed), x @ whole.T.astype("f") + low, IOS17),
        Case("matmul_of_integers", [x], lambda mb, x: mb.matmul(x=x, y=whole.T), x @ whole.T.astype("f"), IOS17),
    ]
    for tx, ty in ((False, False), (True, False), (False, True), (True, True)):
        x, y = _x(2, 1, 3, 4), _x(3, 4, 5)
        x = np.swapaxes(x, -1, -2).copy() if tx else x
        y = np.swapaxes(y, -1, -2).copy() if ty else y
        cases.append(
            Case("matmul", [x, y], lambda mb, x, y, a=(tx, ty): mb.matmul(x=x, y=y, transpose_x=a[0], transpose_y=a[1]))
        )
    cases.append(Case("matmul_vector", [_x(4), _x(4, 3)], lambda mb, x, y: mb.matmul(x=x, y=y)))
    for equation, x, y in (
        ("nchw,nwhu->nchu", _x(2, 3, 4, 5), _x(2, 5, 4, 6)),
        ("bchq,bqhk->bchk", _x(2, 3, 1, 5), _x(1, 5, 4, 6)),
        ("chw,whr->chr", _x(3, 4, 5), _x(5, 4, 2)),
    ):
        cases.append(
            Case(
                f"einsum_{equation}",
                [x, y],
                lambda mb, x, y, e=equation: mb.einsum(values=(x, y), equation=e),
                np.einsum(
                    equation,
                    np.broadcast_to(x, (*x.shape[:-2], y.shape[-2], x.shape[-1])),
                    np.broadcast_to(y, (*x.shape[:1], *y.shape[1:])) if y.ndim == 4 else y,
                ),
            )
        )
    q, k, v, mask = _x(2, 3, 5, 4), _x(2, 3, 6, 4), _x(2, 3, 6, 7), _x(5, 6)

    def sdpa(mb: Any, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mask)

    cases.append(Case("sdpa", [q, k, v], sdpa, ref.attention(q, k, v), IOS18))
    cases.append(Case("sdpa_mask", [q, k, v, mask], sdpa, ref.attention(q, k, v, mask), IOS18))
    return cases


def normalisations() -> list[Case]:
    """Batch, instance, layer and L2 norms."""
    x, g, b, m, v = _x(2, 3, 4, 5), _x(3), _x(3), _x(3), _positive(3)

    def batch(mb: Any, x: Any) -> Any:
        return mb.batch_norm(x=x, mean=m, variance=v, gamma=g, beta=b, epsilon=0.01)

    def instance(mb: Any, x: Any) -> Any:
        return mb.instance_norm(x=x, gamma=g, beta=b, epsilon=0.01)

    cases = [
        Case("batch_norm", [x], batch, ref.batch_norm(x, m, v, g, b, 0.01)),
        Case("instance_norm", [x], instance, ref.instance_norm(x, g, b, 0.01)),
        _unary("layer_norm", x, axes=[-1], gamma=_x(5), beta=_x(5), epsilon=0.01),
        _unary("layer_norm", x, axes=[2, 3], gamma=_x(4, 5), beta=_x(4, 5), epsilon=0.01),
        _unary("layer_norm", x, axes=[1], gamma=_x(3), beta=_x(3), epsilon=0.01),
        _unary("layer_norm", x, axes=[-1, -2], epsilon=0.01),
        _unary("l2_norm", x, epsilon=0.01),
    ]
    return cases


def windows() -> list[Case]:
    """Pooling and resizing."""
    x = _x(2, 3, 6, 5)
    pools = {"kernel_sizes": [3, 2], "strides": [2, 1], "pad_type": "custom", "pad": [1, 1, 0, 0]}
    uneven = {**pools, "pad": [0, 1, 1, 0]}
    cases = [
        Case(
            "max_pool", [x], lambda mb, x: mb.max_pool(x=x, **pools), ref.pool(x, [3, 2], [2, 1], [1, 1, 0, 0], "max")
        ),
        Case(
            "avg_pool", [x], lambda mb, x: mb.avg_pool(x=x, **pools), ref.pool(x, [3, 2], [2, 1], [1, 1, 0, 0], "avg")
        ),
        Case(
            "avg_pool_exclude",
            [x],
            lambda mb, x: mb.avg_pool(x=x, exclude_padding_from_average=True, **pools),
            ref.pool(x, [3, 2], [2, 1], [1, 1, 0, 0], "avg", exclude=True),
        ),
        Case(
            "max_pool_uneven",
            [x],
            lambda mb, x: mb.max_pool(x=x, **uneven),
            ref.pool(x, [3, 2], [2, 1], [0, 1, 1, 0], "max"),
        ),
        Case(
            "avg_pool_uneven",
            [x],
            lambda mb, x: mb.avg_pool(x=x, **uneven),
            ref.pool(x, [3, 2], [2, 1], [0, 1, 1, 0], "avg"),
        ),
    ]
    nearest = {"scale_factor_height": 2, "scale_factor_width": 3}
    cases.append(
        Case("nearest", [x], lambda mb, x: mb.upsample_nearest_neighbor(x=x, **nearest), x.repeat(2, 2).repeat(3, 3))
    )
    fractions = {"scale_factor_height": 2.0, "scale_factor_width": 2.0}
    cases.append(
        Case(
            "nearest_float",
            [x],
            lambda mb, x: mb.upsample_nearest_neighbor(x=x, **fractions),
            x.repeat(2, 2).repeat(2, 3),
        )
    )
    target = {"target_size_height": 12, "target_size_width": 5}
    cases.append(Case("resize_nearest", [x], lambda mb, x: mb.resize_nearest_neighbor(x=x, **target), x.repeat(2, 2)))
    for align in (True, False):
        grid = {"scale_factor_height": 1.5, "scale_factor_width": 2.0, "align_corners": align}
        cases.append(
            Case("bilinear", [x], lambda mb, x, g=grid: mb.upsample_bilinear(x=x, **g), ref.bilinear(x, 9, 10, align))
        )
        mode = "STRICT_ALIGN_CORNERS" if align else "UNALIGN_CORNERS"
        size = {"target_size_height": 4, "target_size_width": 9, "sampling_mode": mode}
        cases.append(
            Case(
                "resize_bilinear", [x], lambda mb, x, s=size: mb.resize_bilinear(x=x, **s), ref.bilinear(x, 4, 9, align)
            )
        )
    y = _x(2, 12, 3, 4)
    cases.append(
        Case("pixel_shuffle", [y], lambda mb, x: mb.pixel_shuffle(x=x, upscale_factor=2), ref.pixel_shuffle(y, 2))
    )
    z = ref.pixel_shuffle(y, 2)
    cases.append(Case("pixel_unshuffle", [z], lambda mb, x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)), y))
    return cases


def shapes() -> list[Case]:
    """Rearrangement, joining and repetition."""
    x = _x(2, 3, 4)
    cases = [
        _unary("reshape", x, shape=[0, -1]) if False else _unary("reshape", x, shape=[4, -1]),
        _unary("reshape", x, shape=[0, -1, 2]),
        _unary("transpose", x, perm=[2, 0, -2]),
        _unary("expand_dims", x, axes=[0, -1]),
        _unary("squeeze", _x(1, 3, 1), axes=[0]),
        _unary("squeeze", _x(1, 3, 1)),
        _unary("tile", x, reps=[2, 1, 3]),
        _unary("reverse", x, axes=[0, 2]),
        _unary("reverse", x),
        _unary("band_part", x, lower=1, upper=0),
        _unary("band_part", x, lower=-1, upper=0),
        _unary("pad", x, pad=[1, 2, 0, 3], constant_val=0.5),
        _unary("pad", x, pad=[1, 2, 0, 3], mode="reflect"),
        _unary("pad", x, pad=[1, 2, 0, 3], mode="replicate"),
        _unary("flatten2d", x, axis=2),
        Case("stack", [x, _x(2, 3, 4)], lambda mb, a, b: mb.stack(values=(a, b), axis=1), None),
        Case("concat", [x, _x(2, 1, 4)], lambda mb, a, b: mb.concat(values=(a, b), axis=-2)),
        Case("shape", [x], lambda mb, x: mb.cast(x=mb.shape(x=x), dtype="fp32"), np.array([2, 3, 4])),
        Case("fill_like", [x], lambda mb, x: mb.fill_like(ref_tensor=x, value=1.5), np.full((2, 3, 4), 1.5)),
    ]
    a, b = _x(2, 3), _x(2, 3)
    interleaved = np.stack([a, b], 2).reshape(2, 6)
    cases.append(
        Case("interleave", [a, b], lambda mb, a, b: mb.concat(values=(a, b), axis=1, interleave=True), interleaved)
    )
    y = _x(2, 6)
    cases.append(Case("split", [y], lambda mb, x: mb.split(x=x, num_splits=3, axis=-1)[1], y[:, 2:4]))
    cases.append(Case("split_sizes", [y], lambda mb, x: mb.split(x=x, split_sizes=[1, 4, 1], axis=1)[1], y[:, 1:5]))
    return cases


def indices() -> list[Case]:
    """Slices and gathers."""
    x = _x(4, 5, 6)
    picks = _ints(4, 2, 3)
    cases = [
        _unary("slice_by_index", x, begin=[1, 0, -3], end=[3, -1, 6], stride=[1, 2, 1]),
        _unary("slice_by_index", x, begin=[1, 0, 5], end=[3, 0, 0], stride=[1, 2, -2], end_mask=[False, True, False]),
        _unary(
            "slice_by_index",
            x,
            begin=[-1, 0, 2],
            end=[0, 0, 0],
            begin_mask=[False, True, False],
            end_mask=[False, True, False],
            squeeze_mask=[True, False, True],
        ),
        _unary("slice_by_size", x, begin=[1, 0, 2], size=[2, -1, 3]),
        Case("gather", [x, picks], lambda mb, x, i: mb.gather(x=x, indices=i, axis=1), np.take(x, picks, 1)),
        Case("gather_scalar", [x], lambda mb, x: mb.gather(x=x, indices=np.int32(2), axis=0), x[2]),
        Case(
            "gather_negative",
            [x],
            lambda mb, x: mb.gather(x=x, indices=np.array([-1, 1], np.int32), axis=0),
            x[[-1, 1]],
            ("iOS16",),
        ),
    ]
    batch = _ints(6, 4, 5, 2)

    def gather_batch(mb: Any, x: Any, i: Any) -> Any:
        return mb.gather(x=x, indices=i, axis=2, batch_dims=2)

    cases.append(Case("gather_batch", [x, batch], gather_batch, np.take_along_axis(x, batch, 2)))
    along = _ints(5, 4, 2, 6)
    cases.append(Case("gather_along_axis", [x, along], lambda mb, x, i: mb.gather_along_axis(x=x, indices=i, axis=1)))
    points = _ints(4, 3, 2)
    cases.append(
        Case("gather_nd", [x, points], lambda mb, x, i: mb.gather_nd(x=x, indices=i), x[points[:, 0], points[:, 1]])
    )
    places = _ints(5, 2, 3)
    expected = np.where(np.eye(5, dtype=bool)[places], 2.0, -1.0).astype(np.float32)

    def one_hot(mb: Any, i: Any) -> Any:
        return mb.one_hot(indices=i, one_hot_vector_size=5, axis=1, on_value=2.0, off_value=-1.0)

    cases.append(Case("one_hot", [places], one_hot, np.moveaxis(expected, -1, 1)))
    return cases


FAMILIES: dict[str, Callable[[], list[Case]]] = {
    "elementwise": elementwise,
    "logic": logic,
    "reductions": reductions,
    "products": products,
    "normalisations": normalisations,
    "windows": windows,
    "shapes": shapes,
    "indices": indices,
}
