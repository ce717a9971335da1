"""Products of operands of two types (iOS 17), and a `pad` beside a type of padding that has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.runtimes.mlprogram import MLProgram
from tests.runtimes.mlprogram.support import builder, save_program

X = np.random.default_rng(0).integers(0, 9, (2, 4))
WEIGHT = np.random.default_rng(1).integers(0, 9, (3, 4))
BIAS = np.array([1, 2, 3])
PRECISIONS = ("float32", "float16-float32acc", "float16")


def _products(path: Path, build: Any, kind: str) -> list[np.ndarray]:
    save_program(build, [X.shape], path, dtypes=[kind], float16=kind != "int32", passes=False)
    return [next(iter(MLProgram(path, p).predict({"x0": X.astype(kind)}).values())) for p in PRECISIONS]


@pytest.mark.parametrize(("kind", "other"), [("float32", "int32"), ("float32", "float16")])
def test_linear_has_the_type_of_its_input(kind: str, other: str, tmp_path: Path) -> None:
    build = lambda x: builder().linear(x=x, weight=WEIGHT.astype(other), bias=BIAS.astype(other))  # noqa: E731
    for found in _products(tmp_path / "m.mlpackage", build, kind):
        np.testing.assert_array_equal(found, X @ WEIGHT.T + BIAS)


@pytest.mark.parametrize(("kind", "other"), [("float32", "int32"), ("int32", "float32"), ("int32", "int32")])
def test_matmul_has_the_declared_type(kind: str, other: str, tmp_path: Path) -> None:
    build = lambda x: builder().matmul(x=x, y=WEIGHT.T.astype(other))  # noqa: E731
    for found in _products(tmp_path / "m.mlpackage", build, kind):
        assert found.dtype == kind
        np.testing.assert_array_equal(found, X @ WEIGHT.T)


@pytest.mark.parametrize("pad_type", ["valid", "same"])
def test_pad_counts_for_custom_alone(pad_type: str, tmp_path: Path) -> None:
    weight = np.random.default_rng(2).standard_normal((2, 3, 3)).astype(np.float32)
    x = np.random.default_rng(3).standard_normal((1, 3, 9)).astype(np.float32)
    build = lambda x: builder().conv(x=x, weight=weight, pad_type=pad_type, pad=[1, 1])  # noqa: E731
    path = save_program(build, [x.shape], tmp_path / "m.mlpackage", passes=False)
    found = next(iter(MLProgram(path).predict({"x0": x}).values()))
    padding = 1 if pad_type == "same" else 0
    expected = torch.conv1d(torch.from_numpy(x), torch.from_numpy(weight), padding=padding).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
