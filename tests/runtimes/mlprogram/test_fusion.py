"""Attention that is written out: one step in float32, with the same result; every step where results are rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdmobile.runtimes.mlprogram import MLProgram
from tests.runtimes.mlprogram import reference as ref
from tests.runtimes.mlprogram.support import builder, save_program

_RANDOM = np.random.default_rng(0)
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "heads": [(2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 4)],
    "no heads": [(2, 5, 4), (2, 6, 4), (2, 6, 4)],
    "one key for all heads": [(2, 3, 5, 4), (2, 1, 6, 4), (2, 1, 6, 4)],
    "another size of values": [(1, 2, 5, 4), (1, 2, 6, 4), (1, 2, 6, 7)],
}


def _build(transposed: bool, outputs: int = 1) -> Any:
    def build(q: Any, k: Any, v: Any) -> Any:
        mb = builder()
        if transposed:
            k, v = (mb.transpose(x=x, perm=[*range(x.rank - 2), x.rank - 1, x.rank - 2]) for x in (k, v))
        scores = mb.matmul(x=q, y=k, transpose_y=not transposed, name="scores")
        y = mb.matmul(x=mb.softmax(x=scores), y=v, transpose_y=transposed, name="y")
        return (y, mb.relu(x=scores, name="used twice"))[:outputs] if outputs > 1 else y

    return build


def _inputs(shapes: list[tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {f"x{i}": _RANDOM.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}


def _steps(program: MLProgram, inputs: dict[str, np.ndarray]) -> list[str]:
    return [step.op.function.__name__ for step, _ in program.results(inputs)]


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("transposed", [False, True])
def test_one_step_gives_what_three_do(name: str, transposed: bool, tmp_path: Path) -> None:
    path = save_program(_build(transposed), SHAPES[name], tmp_path / "p.mlpackage", passes=False)
    inputs = _inputs(SHAPES[name])
    fused, apart = MLProgram(path), MLProgram(path, fuse=False)
    q, k, v = inputs.values()
    expected = ref.softmax(q.astype(np.float64) @ np.swapaxes(k, -1, -2)) @ v
    for program in (fused, apart):
        np.testing.assert_allclose(program.predict(inputs)["y"], expected, rtol=1e-5, atol=1e-5)
    assert "attention" in _steps(fused, inputs)
    assert "softmax" in _steps(apart, inputs)


def test_scores_that_something_else_uses_are_computed(tmp_path: Path) -> None:
    path = save_program(_build(False, outputs=2), SHAPES["heads"], tmp_path / "p.mlpackage", passes=False)
    assert "softmax" in _steps(MLProgram(path), _inputs(SHAPES["heads"]))


def test_rounding_needs_every_step(tmp_path: Path) -> None:
    path = save_program(_build(False), SHAPES["heads"], tmp_path / "p.mlpackage", float16=True)
    assert "softmax" in _steps(MLProgram(path, precision="float16-float32acc"), _inputs(SHAPES["heads"]))
