"""Every operation against coremltools' own value inference or its written definition, through saved bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtimes.mlprogram import cases as cases_plain
from tests.runtimes.mlprogram import cases_flow, cases_images, cases_layers, cases_tensor
from tests.runtimes.mlprogram.cases import FAMILIES, Case
from tests.runtimes.mlprogram.cases_flow import FAMILIES as FLOW_FAMILIES
from tests.runtimes.mlprogram.cases_images import FAMILIES as IMAGE_FAMILIES
from tests.runtimes.mlprogram.cases_layers import FAMILIES as LAYER_FAMILIES
from tests.runtimes.mlprogram.cases_tensor import FAMILIES as TENSOR_FAMILIES
from tests.runtimes.mlprogram.support import builder, predict_all, save_program

ALL = FAMILIES | TENSOR_FAMILIES | LAYER_FAMILIES | IMAGE_FAMILIES | FLOW_FAMILIES


@pytest.fixture(autouse=True)
def _same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws the same numbers whichever tests ran before: near a float16 tie, another draw is another result."""
    for seed, module in enumerate((cases_plain, cases_tensor, cases_layers, cases_images, cases_flow)):
        monkeypatch.setattr(module, "_RANDOM", np.random.default_rng(seed))


def _value(result: Any) -> np.ndarray:
    return np.asarray(result.val)


def _save(cases: list[Case], path: Path, target: str, float16: bool = False) -> list[np.ndarray]:
    """Saves one program with every case and returns the expected results."""
    expected: list[np.ndarray] = []

    def build(*inputs: Any) -> Any:
        mb = builder()
        remaining = list(inputs)
        outputs = []
        for case in cases:
            arguments = [remaining.pop(0) for _ in case.inputs]
            result = case.build(mb, *arguments)
            if case.expected is None:
                expected.append(_value(case.build(mb, *[mb.const(val=array) for array in case.inputs])))
            else:
                expected.append(case.expected)
            # An identity of a unique name, since an input of the program may be an output of none.
            outputs.append(mb.identity(x=result, name=f"y{len(outputs)}"))
        return tuple(outputs)

    arrays = [array for case in cases for array in case.inputs]
    save_program(build, [a.shape for a in arrays], path, target, [str(a.dtype) for a in arrays], float16)
    return expected


@pytest.mark.parametrize("target", ["iOS16", "iOS17", "iOS18"])
@pytest.mark.parametrize("family", sorted(ALL))
def test_operations_match_their_definition(family: str, target: str, tmp_path: Path) -> None:
    cases = [case for case in ALL[family]() if target in case.targets]
    path = tmp_path / "program.mlpackage"
    expected = _save(cases, path, target)
    actual = predict_all(path, [array for case in cases for array in case.inputs])
    assert len(actual) == len(cases)
    for case, want, got in zip(cases, expected, actual, strict=True):
        assert got.shape == want.shape, case.name
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=case.name)


@pytest.mark.parametrize("family", sorted(LAYER_FAMILIES | IMAGE_FAMILIES | FLOW_FAMILIES))
def test_float16_packages_stay_near(family: str, tmp_path: Path) -> None:
    cases = [case for case in ALL[family]() if "iOS17" in case.targets]
    path = tmp_path / "program.mlpackage"
    expected = _save(cases, path, "iOS17", float16=True)
    for precision in ("float16-float32acc", "float16"):
        actual = predict_all(path, [array for case in cases for array in case.inputs], precision)
        for case, want, got in zip(cases, expected, actual, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-2, atol=4e-3, err_msg=f"{case.name} {precision}")
