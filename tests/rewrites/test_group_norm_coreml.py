"""GroupNorm in a Core ML package in float16, with activations as large as a trained decoder's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdmobile.basics.metrics import psnr
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.group_norm import GroupNormInstanceNorm
from sdmobile.rewrites.rule import Rule
from sdmobile.runtimes.mlprogram import MLProgram


class Inflated(nn.Module):
    """A convolution with weights 400 times the usual, a norm and its SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 32, 3, padding=1)
        self.norm = nn.GroupNorm(8, 32)
        with torch.no_grad():
            self.conv.weight *= 400
            for parameter in (*self.conv.parameters(), self.norm.weight, self.norm.bias):
                parameter += 0.2 * torch.randn_like(parameter)
                parameter.copy_(parameter.half())  # so that only the arithmetic is rounded

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.norm(self.conv(x)))


def packaged(module: nn.Module, x: Tensor, rules: Sequence[Rule], path: Path) -> Path:
    import coremltools as ct

    program = rewrite(torch.export.export(module, (x,)), rules).program
    model: Any = ct.convert(
        program.run_decompositions({}),
        convert_to="mlprogram",
        inputs=[ct.TensorType(name="x", shape=tuple(x.shape), dtype=np.float32)],
        outputs=[ct.TensorType(name="y", dtype=np.float32)],
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


@pytest.fixture(scope="module")
def inflated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """PSNR of both forms in both precisions."""
    torch.manual_seed(0)
    module = Inflated().eval().requires_grad_(False)
    x = torch.randn(1, 8, 24, 24).half().float()
    expected = module.double()(x.double())
    module.float()
    figures: dict[str, dict[str, float]] = {}
    for form, rules in {"default": [], "instance_norm": [GroupNormInstanceNorm()]}.items():
        path = packaged(module, x, rules, tmp_path_factory.mktemp(form) / "norm.mlpackage")
        figures[form] = {
            precision: psnr(expected, MLProgram(path, precision).predict({"x": x.numpy()})["y"])
            for precision in ("float32", "float16")
        }
    return figures


def test_both_forms_encode_the_function(inflated: dict[str, dict[str, float]]) -> None:
    """Above 100 dB, though the converter's batch_norm of the affine step has a variance of 1 and ε = 1e-5."""
    assert min(inflated[form]["float32"] for form in inflated) > 100


def test_the_default_form_overflows(inflated: dict[str, dict[str, float]]) -> None:
    """The reason for the rule; if this fails, the rule can go."""
    assert not inflated["default"]["float16"] > 30


def test_the_rule_holds_in_float16(inflated: dict[str, dict[str, float]]) -> None:
    assert inflated["instance_norm"]["float16"] > 80
