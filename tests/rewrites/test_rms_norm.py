"""The forms of RMSNorm against PyTorch's, in float32, in float16, and in the files of both targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.basics.metrics import psnr
from sdmobile.lint import lint_file
from sdmobile.rewrites.composites.rms_norm import RmsNormComposite
from sdmobile.rewrites.constants import SplitConstants
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.rms_norm import RmsNormAmax, RmsNormPlain, rms_norm_amax, rms_norm_plain
from sdmobile.rewrites.rule import Rule
from sdmobile.runtimes.mlprogram import MLProgram
from sdmobile.runtimes.mlprogram.precision import Precision
from tests.rewrites.composites.test_composites import composites
from tests.rewrites.litert_files import litert_file
from tests.rewrites.test_group_norm_coreml import packaged

DECADES = pytest.mark.parametrize("std", [0.001, 0.01, 1.0, 100.0, 1000.0, 4400.0])

PRECISIONS: tuple[tuple[Precision, int], ...] = (("float32", 110), ("float16-float32acc", 68))


def example(std: float, width: int = 320) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 77, width, generator=generator) * std
    return x, 1 + 0.2 * torch.randn(width, generator=generator)


def reference(x: Tensor, weight: Tensor | None, eps: float = 1e-6) -> Tensor:
    """The operator in float64."""
    return torch.rms_norm(x.double(), x.shape[-1:], None if weight is None else weight.double(), eps)


@given(
    lead=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    width=st.integers(1, 40),
    affine=st.booleans(),
    eps=st.sampled_from([1e-6, 1e-5, 1e-3]),
    magnitude=st.sampled_from([1e-4, 1.0, 1e4]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=80, deadline=None)
def test_any_shape_and_size(lead: list[int], width: int, affine: bool, eps: float, magnitude: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*lead, width, generator=generator) * magnitude
    weight = torch.randn(width, generator=generator) if affine else None
    expected = reference(x, weight, eps)
    for form in (rms_norm_plain, rms_norm_amax):
        torch.testing.assert_close(form(x, weight, eps).double(), expected, rtol=2e-6, atol=1e-6)


@DECADES
def test_float16_over_seven_decades(std: float) -> None:
    """Every operator rounded; weights are float16 numbers to begin with."""
    x, weight = (t.half() for t in example(std))
    assert psnr(reference(x, weight), rms_norm_amax(x, weight)) > 78


@pytest.mark.parametrize(("std", "most"), [(0.001, 62.0), (100.0, 20.0), (1000.0, 0.0)])
def test_the_plain_form_does_not_hold_in_float16(std: float, most: float) -> None:
    """The reason for the other one; if this fails, it can go."""
    x, weight = (t.half() for t in example(std))
    assert not psnr(reference(x, weight), rms_norm_plain(x, weight)) > most


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_zeros_stay_zeros(dtype: torch.dtype) -> None:
    zeros = torch.zeros(2, 3, 8, dtype=dtype)
    assert torch.equal(rms_norm_amax(zeros, torch.ones(8, dtype=dtype)), zeros)


class Inflated(nn.Module):
    """A linear layer whose outputs have a given deviation, a norm, a linear layer; all weights are float16 numbers."""

    def __init__(self, std: float, width: int = 48, affine: bool = True) -> None:
        super().__init__()
        self.proj, self.out = nn.Linear(16, width, bias=False), nn.Linear(width, 8)
        self.norm = nn.RMSNorm(width, eps=1e-6, elementwise_affine=affine)
        with torch.no_grad():
            self.proj.weight.normal_().mul_(std / 4)
            for parameter in (*self.norm.parameters(), *self.out.parameters()):
                parameter += 0.2 * torch.randn_like(parameter)
            for parameter in self.parameters():
                parameter.copy_(parameter.half())

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.proj(x)))


@pytest.mark.parametrize("std", [0.0003, 0.01, 1.0, 4400.0])
def test_core_ml_holds_in_float16(std: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Inflated(std).eval().requires_grad_(False)
    x = torch.randn(1, 20, 16).half().float()
    path = packaged(module, x, [RmsNormAmax(), SplitConstants()], tmp_path / "norm.mlpackage")
    expected = module.double()(x.double())
    for precision, least in PRECISIONS:
        assert psnr(expected, MLProgram(path, precision).predict({"x": x.numpy()})["y"]) > least


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("rule", [RmsNormPlain(), RmsNormAmax(), RmsNormComposite()], ids=lambda rule: rule.name)
def test_litert(rule: Rule, affine: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = litert_file(Inflated(1000.0, affine=affine), (torch.randn(2, 20, 16),), [rule], tmp_path)
    assert psnr(file.expected, file.run()) > 120
    assert lint_file(file.path).accepted
    assert "TRANSPOSE" not in file.facts.operators
    norms = [(node.name, node.attributes, node.shapes) for node in composites(file.path)]
    attributes = {"epsilon": pytest.approx(1e-6)}
    expected = [("odml.rms_norm", attributes, ((2, 20, 48), (48,)))] if rule.composite else []
    assert norms == expected


def test_epsilon_that_is_not_given_is_that_of_float32() -> None:
    program = torch.export.export(nn.RMSNorm(8, elementwise_affine=False), (torch.zeros(2, 8),))
    graph = rewrite(program, [RmsNormPlain()]).program.graph
    added = [n.args[1] for n in graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)]
    assert added == [torch.finfo(torch.float32).eps]


def test_a_norm_over_two_axes_is_refused() -> None:
    program = torch.export.export(nn.RMSNorm([3, 4]), (torch.randn(2, 3, 4),))
    (record,) = rewrite(program, [RmsNormPlain()]).records
    assert record.outcome == "refused"
    assert "(3, 4) of (2, 3, 4)" in (record.reason or "")
