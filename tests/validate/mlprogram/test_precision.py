"""What the two precision modes round, and that both keep memory bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sdmobile.validate.mlprogram import MLProgram
from tests.validate.mlprogram.support import builder, save_program

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
    from sdmobile.validate.mlprogram import plan, read_program
    from sdmobile.validate.mlprogram.precision import rounding
    from sdmobile.validate.mlprogram.weights import Weights

    def build(x: Any) -> Any:
        mb = builder()
        a = mb.sin(x=x, name="a")
        b = mb.cos(x=a, name="b")
        return mb.add(x=b, y=a, name="c")

    package, function = read_program(save_program(build, [(2, 2)], tmp_path / "chain.mlpackage"))
    exact = rounding("float32")
    made = plan.make_plan(function, Weights(package, exact, 0), exact)
    assert [step.release for step in made.steps] == [("x0",), (), ("a", "b")]
