"""ControlNet, SDXL, OpenCLIP, safety checker and TAESD, converted for three targets, against torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdmobile.runtimes.mlprogram import MLProgram
from tests.runtimes.mlprogram.pipelines import JOBS
from tests.runtimes.mlprogram.support import as_arrays, convert_module, psnr
from tests.runtimes.mlprogram.witnesses import EMITTED

TARGETS = ("iOS16", "iOS17", "iOS18")
FAST = {("openclip_text", "iOS16"), ("safety_checker", "iOS18")}
ALL = [(name, target) for name in sorted(JOBS) for target in TARGETS]
LEAST_DB = 60.0
"""Rounding of the weights to float16 alone costs these models down to 75 dB."""


def _check(name: str, target: str, path: Path) -> None:
    torch.manual_seed(0)
    module, inputs = JOBS[name]()
    with torch.no_grad():
        expected = module.eval()(*inputs.values()).numpy()
    convert_module(module, inputs, path, target, float16=True)
    emitted = {operation.type for operation in MLProgram(path).operations()}
    assert emitted <= EMITTED[target], "docs/evaluator.md says what is emitted"
    for precision in ("float32", "float16", "float16-float32acc"):
        output = MLProgram(path, precision=precision).predict(as_arrays(inputs))["output"]
        decibels = psnr(expected, output)
        assert decibels >= LEAST_DB, (precision, decibels)


@pytest.mark.parametrize(("name", "target"), [case for case in ALL if case in FAST])
def test_a_part_of_a_pipeline_computes_what_torch_does(name: str, target: str, tmp_path: Path) -> None:
    _check(name, target, tmp_path / "model.mlpackage")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), [case for case in ALL if case not in FAST])
def test_every_part_of_a_pipeline_computes_what_torch_does(name: str, target: str, tmp_path: Path) -> None:
    _check(name, target, tmp_path / "model.mlpackage")


def test_the_safety_checker_of_the_test_flags_one_picture_of_two() -> None:
    torch.manual_seed(0)
    module, inputs = JOBS["safety_checker"]()
    with torch.no_grad():
        output = module.eval()(*inputs.values())
    black = [not bool(picture.any()) for picture in output[:, : inputs["images"][0].numel()]]
    assert sorted(black) == [False, True]
