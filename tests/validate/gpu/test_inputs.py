"""Inputs that are made up reach every output, or the file counts as not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdmobile.validate.gpu import check
from sdmobile.validate.gpu.inputs import exciting_inputs, varies
from sdmobile.validate.gpu.verdict import GpuStatus, GpuVerdict
from tests.lint.corpus.graph import Graph, options

SHAPE = (2, 6)


def written(folder: Path, operator: str, factor: float | None = None) -> Path:
    """Writes a file of one operator, with a constant operand if there is a factor."""
    graph = Graph()
    operands = [graph.input(SHAPE)]
    if factor is not None:
        operands.append(graph.const(np.full(SHAPE, factor, np.float32), "float32"))
    made = None if factor is None else options("Mul")
    path = folder / "file.tflite"
    path.write_bytes(graph.bytes(*graph.op(operator, operands, SHAPE, options=made)))
    return path


def test_ordinary_numbers_where_they_do(tmp_path: Path) -> None:
    made = exciting_inputs(written(tmp_path, "MUL", 2.0))
    (numbers,), (products,) = made.inputs.values(), made.outputs.values()
    assert made.constant == ()
    assert numbers.min() < 0 < numbers.max()
    np.testing.assert_array_equal(products, 2 * numbers)


def test_positive_numbers_for_a_logarithm(tmp_path: Path) -> None:
    made = exciting_inputs(written(tmp_path, "LOG"))
    (numbers,) = made.inputs.values()
    assert made.constant == ()
    assert numbers.min() > 0


def test_an_output_that_is_always_zero_is_named(tmp_path: Path) -> None:
    made = exciting_inputs(written(tmp_path, "MUL", 0.0))
    assert made.constant == tuple(made.outputs)


@pytest.mark.parametrize(("factor", "status"), [(2.0, GpuStatus.ACCEPTED), (0.0, GpuStatus.NOT_RUN)])
def test_agreement_on_a_constant_is_no_evidence(
    factor: float, status: GpuStatus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "MUL", factor)

    def right(_path: Path, samples: list[dict[str, Any]], **_: object) -> check.GpuRun:
        (name,) = exciting_inputs(path).outputs
        outputs = tuple({name: factor * next(iter(sample.values()))} for sample in samples)
        return check.GpuRun(GpuVerdict("browser", "float32", GpuStatus.ACCEPTED), outputs)

    monkeypatch.setattr(check, "run_on_gpu", right)
    verdict = check.check_file(path)
    assert verdict.status is status
    assert (verdict.reason is None) is (status is GpuStatus.ACCEPTED)
    if status is GpuStatus.NOT_RUN:
        assert "one value everywhere" in str(verdict.reason)


def test_what_varies() -> None:
    assert varies(np.array([1.0, 2.0]))
    assert varies(np.array(3.0))
    assert not varies(np.zeros(4))
    assert not varies(np.array(0.0))
    assert not varies(np.array([1.0, np.nan]))
    assert not varies(np.zeros(0))
