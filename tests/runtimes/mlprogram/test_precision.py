"""What the precision modes round, and that they keep memory bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.runtimes.mlprogram import InputError, MLProgram, Precision
from sdmobile.runtimes.mlprogram.ops import sums
from tests.runtimes.mlprogram.direct import evaluate
from tests.runtimes.mlprogram.support import builder, save_program

X = np.array([[1.0, 1.0003, 300.0, 2049.0]], np.float32)


def _square(x: Any) -> Any:
    mb = builder()
    return mb.square(x=x, name="y")


def test_float16_mode_rounds_each_result_and_overflows_as_a_phone_does(tmp_path: Path) -> None:
    path = save_program(_square, [X.shape], tmp_path / "square.mlpackage", float16=True)
    exact = MLProgram(path).predict({"x0": X})["y"]
    rounded = MLProgram(path, precision="float16").predict({"x0": X})["y"]
    np.testing.assert_array_equal(exact, X * X)
    with np.errstate(over="ignore"):
        expected = np.square(X.astype(np.float16)).astype(np.float32)
    assert np.isinf(expected[0, 2])
    np.testing.assert_array_equal(rounded, expected)


def test_float16_mode_leaves_a_float32_program_alone(tmp_path: Path) -> None:
    path = save_program(_square, [X.shape], tmp_path / "square.mlpackage", float16=False)
    output = MLProgram(path, precision="float16").predict({"x0": X})["y"]
    np.testing.assert_array_equal(output, X * X)


def test_inputs_and_weights_are_not_changed_by_a_prediction(tmp_path: Path) -> None:
    weight = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)

    def build(x: Any) -> Any:
        mb = builder()
        return mb.add(x=mb.relu(x=mb.linear(x=x, weight=weight)), y=mb.linear(x=x, weight=weight), name="y")

    path = save_program(build, [(3, 8)], tmp_path / "linear.mlpackage", float16=True)
    program = MLProgram(path, precision="float16")
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    before = x.copy()
    first = program.predict({"x0": x})["y"]
    stored = (path / "Data/com.apple.CoreML/weights/weight.bin").read_bytes()
    np.testing.assert_array_equal(program.predict({"x0": x})["y"], first)
    np.testing.assert_array_equal(x, before)
    assert (path / "Data/com.apple.CoreML/weights/weight.bin").read_bytes() == stored


def test_a_value_is_dropped_after_its_last_use(tmp_path: Path) -> None:
    from sdmobile.runtimes.mlprogram import plan, read_program
    from sdmobile.runtimes.mlprogram.precision import rounding
    from sdmobile.runtimes.mlprogram.weights import Weights

    def build(x: Any) -> Any:
        mb = builder()
        a = mb.sin(x=x, name="a")
        b = mb.cos(x=a, name="b")
        return mb.add(x=b, y=a, name="c")

    package, function = read_program(save_program(build, [(2, 2)], tmp_path / "chain.mlpackage"))
    exact = rounding("float32")
    made = plan.make_plan(function, Weights(package, exact, 0), exact)
    assert [step.release for step in made.steps] == [("x0",), (), ("a", "b")]


def _half(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def _pairwise(parts: list[np.ndarray]) -> np.ndarray:
    """Adds neighbours until one is left, each addition rounded."""
    parts = [_half(part) for part in parts]
    while len(parts) > 1:
        pairs = [_half(a + b) for a, b in zip(parts[0::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    return parts[0]


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + sums.BLOCK) for start in range(0, count, sums.BLOCK)]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**32 - 1))
def test_sums_in_float16_are_those_of_the_written_definition(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = _half(random.standard_normal((3, count)).astype(np.float32))
    y = _half(random.standard_normal((count, 2)).astype(np.float32))
    parts = [x[:, part] @ y[part] for part in _blocks(count)]
    product = sums.matmul(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    # The sums within a block may differ in their last float32 bit, and then fall on the other side of a tie.
    np.testing.assert_allclose(product, _pairwise(parts), rtol=2e-3, atol=2e-3)
    mean = sums.total(torch.from_numpy(x), [1], False, count).numpy()
    wanted = _pairwise([x[:, part].sum(1) / np.float32(count) for part in _blocks(count)])
    np.testing.assert_allclose(mean, wanted, rtol=2e-3, atol=1e-5)
    weight = y.T.reshape(2, count, 1, 1)
    attributes = {"x": x[:, :, None, None], "weight": weight}
    (convolved,) = evaluate("conv", attributes, 17, [np.zeros((3, 2, 1, 1), np.float16)], "float16")
    np.testing.assert_allclose(convolved[:, :, 0, 0], product, rtol=2e-3, atol=2e-3)


def test_a_sum_that_float16_cannot_hold_on_the_way_shows_only_where_sums_are_rounded() -> None:
    x = np.repeat(np.array([1000.0, -1000.0], np.float32), 128)[None]
    result = [np.zeros(1, np.float16)]
    expectations: dict[Precision, float] = {"float32": 0.0, "float16-float32acc": 0.0, "float16": np.nan}
    for precision, expected in expectations.items():
        (total,) = evaluate("reduce_sum", {"x": x, "axes": [1]}, 17, result, precision)
        np.testing.assert_array_equal(total, [expected])
    with_mean = evaluate("reduce_mean", {"x": np.abs(x), "axes": [1]}, 17, result, "float16")
    np.testing.assert_array_equal(with_mean[0], [1000.0])


@pytest.mark.parametrize("kind", ["matmul", "linear", "einsum", "scaled_dot_product_attention", "conv_transpose"])
def test_products_agree_between_the_ways_of_adding(kind: str) -> None:
    random = np.random.default_rng(0)

    def x(*shape: int) -> np.ndarray:
        return _half(random.standard_normal(shape).astype(np.float32))

    attributes: dict[str, Any] = {
        "matmul": {"x": x(2, 3, 200), "y": x(4, 200), "transpose_y": True},
        "linear": {"x": x(2, 3, 200), "weight": x(5, 200), "bias": x(5)},
        "einsum": {"values": (x(2, 3, 4, 200), x(2, 200, 4, 6)), "equation": "nchw,nwhu->nchu"},
        "scaled_dot_product_attention": {"query": x(2, 3, 5, 80), "key": x(2, 3, 150, 80), "value": x(2, 3, 150, 7)},
        "conv_transpose": {"x": x(1, 260, 3, 3), "weight": x(260, 3, 2, 2), "groups": 2, "strides": [2, 1]},
    }[kind]
    shape = evaluate(kind, attributes, 18, [np.zeros((), np.float16)])[0]
    for precision in ("float16", "float16-float32acc"):
        (rounded,) = evaluate(kind, attributes, 18, [np.zeros((), np.float16)], precision)
        assert rounded.shape == shape.shape
        assert np.linalg.norm(rounded - shape) <= 2e-3 * np.linalg.norm(shape)


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float32, float16, float16-float32acc"):
        MLProgram(tmp_path, precision="bfloat16")  # type: ignore[arg-type]
