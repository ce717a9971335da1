"""GELU's neighbours and GEGLU's two projections."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.basics.metrics import psnr
from sdmobile.formats.tflite.graph import read_facts
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.geglu import GegluSplit
from sdmobile.rewrites.gelu import GeluSwish, GeluTanh
from sdmobile.rewrites.program import run


class Geglu(nn.Module):
    """Diffusers' GEGLU, values first."""

    def __init__(self, width: int, inner: int, bias: bool = True, approximate: str = "none", axis: int = -1) -> None:
        super().__init__()
        self.projection = nn.Linear(width, 2 * inner, bias=bias)
        self.approximate, self.axis = approximate, axis

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.projection(x).chunk(2, self.axis)
        return value * nn.functional.gelu(gate, approximate=self.approximate)


def captured(module: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(module.eval().requires_grad_(False), (x,))


def targets(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def error(x: Tensor, rule: GeluTanh | GeluSwish) -> float:
    return float((rule.replacement(x, approximate="none") - nn.functional.gelu(x)).abs().max())


@pytest.mark.parametrize(
    ("rule", "largest"), [(GeluTanh(), 4.74e-4), (GeluSwish(), 0.0204), (GeluSwish(beta=1.0), 0.193)]
)
def test_distance_that_the_docstring_names(rule: GeluTanh | GeluSwish, largest: float) -> None:
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    assert error(x, rule) == pytest.approx(largest, rel=0.02)


def test_the_published_beta_is_nearer_than_silu() -> None:
    x = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    assert error(x, GeluSwish()) < error(x, GeluSwish(beta=1.0)) / 9


@pytest.mark.parametrize("rule", [GeluTanh(), GeluSwish()])
def test_float16_stays_finite(rule: GeluTanh | GeluSwish) -> None:
    x = torch.tensor([-6e4, -1e3, -40.0, 0.0, 40.0, 1e3, 6e4], dtype=torch.float16)
    expected = nn.functional.gelu(x.double())
    torch.testing.assert_close(rule.replacement(x, approximate="none").double(), expected)


def test_an_approximate_gelu_is_refused() -> None:
    program = captured(Geglu(4, 8, approximate="tanh"), torch.randn(1, 3, 4))
    assert [r.outcome for r in rewrite(program, [GeluTanh(), GeluSwish()]).records] == ["refused", "refused"]


@given(
    width=st.integers(1, 9),
    inner=st.integers(1, 12),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    bias=st.booleans(),
    approximate=st.sampled_from(["none", "tanh"]),
    magnitude=st.sampled_from([1.0, 30.0, 1e3]),
)
@settings(max_examples=40, deadline=None)
def test_two_projections_equal_one(
    width: int, inner: int, shape: list[int], bias: bool, approximate: str, magnitude: float
) -> None:
    torch.manual_seed(0)
    module = Geglu(width, inner, bias, approximate).double()
    x = torch.randn(*shape, width, generator=torch.Generator().manual_seed(0)) * magnitude
    weight, bias_ = module.projection.weight.float(), module.projection.bias
    split = GegluSplit().replacement(
        x, weight, None if bias_ is None else bias_.float(), axis=-1, approximate=approximate
    )
    # The tail of a tanh GELU is below float32's resolution of its argument, hence an absolute tolerance.
    exact = module(x.double()).detach()
    torch.testing.assert_close(split.detach().double(), exact, rtol=1e-4, atol=1e-5 * magnitude)


def test_float16_is_the_same_as_before() -> None:
    module = Geglu(64, 128).half()
    x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0)).half()
    split = GegluSplit().replacement(x, module.projection.weight, module.projection.bias, axis=-1, approximate="none")
    exact = module.double()(x.double())
    assert psnr(exact.detach(), split.detach()) > psnr(exact.detach(), module.half()(x).detach()) - 1


def test_no_slice_is_left_and_the_pieces_are_the_weight() -> None:
    module, x = Geglu(8, 12), torch.randn(2, 5, 8)
    program = captured(module, x)
    rewritten = rewrite(program, [GegluSplit()])
    after = targets(rewritten.program)
    assert sorted(after) == ["aten.gelu.default", "aten.linear.default", "aten.linear.default", "aten.mul.Tensor"]
    assert psnr(run(program, (x,))[0], run(rewritten.program, (x,))[0]) > 110
    pieces = {tuple(t.shape): t for t in rewritten.program.constants.values() if isinstance(t, Tensor)}
    assert set(pieces) == {(12, 8), (12,)}
    assert rewritten.records[0].details["elements_not_copied"] == 2 * 5 * 24


def test_a_split_of_another_axis_is_refused() -> None:
    program = captured(Geglu(4, 8, axis=1), torch.randn(1, 6, 4))
    records = rewrite(program, [GegluSplit()]).records
    assert [r.outcome for r in records] == ["refused"]
    assert "axis 1" in str(records[0].reason)


def test_a_silu_gate_is_no_geglu() -> None:
    class Swiglu(Geglu):
        def forward(self, x: Tensor) -> Tensor:
            value, gate = self.projection(x).chunk(2, -1)
            return value * nn.functional.silu(gate)

    program = captured(Swiglu(4, 8), torch.randn(1, 6, 4))
    assert [r.outcome for r in rewrite(program, [GegluSplit()]).records] == ["unmatched"]


def test_one_gelu_operator_in_a_litert_file_and_no_slice(tmp_path: Path) -> None:
    import litert_torch

    x = torch.randn(1, 6, 8)
    for approximate in ("none", "tanh"):
        program = rewrite(captured(Geglu(8, 16, approximate=approximate), x), [GegluSplit()]).program
        path = tmp_path / f"{approximate}.tflite"
        litert_torch.convert(_Callable(program), (x,)).export(str(path))
        assert read_facts(path).operators == {"FULLY_CONNECTED": 2, "GELU": 1, "MUL": 1}


class _Callable(nn.Module):
    """A program as a module in inference mode, which is what the converter takes."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return self.program(x)


def test_bounds_say_what_the_rules_are() -> None:
    assert (GeluTanh.bound_db, GeluSwish.bound_db) == (-math.inf, -math.inf)
    assert {GeluTanh.exactness, GeluSwish.exactness} == {"changes-function"}
