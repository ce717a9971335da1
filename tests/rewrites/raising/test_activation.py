"""SiLU and GELU in many spellings become one operator; other functions are left alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.raising.activation import RaiseGelu, RaiseSilu
from tests.rewrites.raising.spellings import Written, captured, raised

Function = Callable[[Tensor], Tensor]
C = math.sqrt(2 / math.pi)
SILU: dict[str, Function] = {
    "x * sigmoid(x)": lambda x: x * torch.sigmoid(x),
    "sigmoid(x) * x": lambda x: torch.sigmoid(x) * x,
    "x / (1 + exp(-x))": lambda x: x / (1 + torch.exp(-x)),
    "x * (1 / (1 + exp(-x)))": lambda x: x * (1.0 / (torch.exp(-x) + 1.0)),
    "reciprocal": lambda x: torch.reciprocal(torch.exp(x * -1.0) + 1.0) * x,
}
GELU: dict[str, Function] = {
    "x * 0.5 * (1 + erf)": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "0.5 * x * (erf + 1)": lambda x: 0.5 * x * (torch.erf(x * math.sqrt(0.5)) + 1),
    "0.5 * (x * (1 + erf))": lambda x: 0.5 * (x * (1 + torch.erf(x / 1.4142135))),
    "x * ((1 + erf) / 2)": lambda x: x * ((1 + torch.erf(x * 0.70710678)) / 2),
    "x / 2 + x / 2 * erf": lambda x: x / 2 + x / 2 * torch.erf(x / math.sqrt(2.0)),
}
TANH: dict[str, Function] = {
    "pow": lambda x: 0.5 * x * (1 + torch.tanh(C * (x + 0.044715 * torch.pow(x, 3)))),
    "factored": lambda x: 0.5 * x * (1.0 + torch.tanh(0.7978845608 * x * (1.0 + 0.044715 * x * x))),
    "products": lambda x: x * 0.5 * (1.0 + torch.tanh(C * (x + 0.044715 * (x * x * x)))),
}


def cases(spellings: dict[str, Function]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("function", spellings.values(), ids=spellings.keys())


def check(function: Function, operator: str) -> None:
    x = torch.linspace(-9, 9, 60).reshape(3, 20)
    after, decibels, refusals = raised(Written(function), x, [RaiseSilu(), RaiseGelu()])
    assert after == ["aten.cumsum.default", operator, "aten.relu.default"]
    assert decibels > 100
    assert refusals == []


@cases(SILU)
def test_silu(function: Function) -> None:
    check(function, "aten.silu.default")


@cases(GELU)
def test_gelu(function: Function) -> None:
    check(function, "aten.gelu.default")


@cases(TANH)
def test_tanh_form_keeps_its_name(function: Function) -> None:
    check(function, "aten.gelu.default")
    program = rewrite(captured(Written(function), torch.zeros(2, 3)), [RaiseGelu()]).program
    gelu = next(node for node in program.graph.nodes if node.target is torch.ops.aten.gelu.default)
    assert gelu.kwargs["approximate"] == "tanh"


@cases(
    {
        "quick GELU": lambda x: x * torch.sigmoid(1.702 * x),
        "sigmoid of another": lambda x: x * torch.sigmoid(x + 0.01),
        "half of the error function": lambda x: x * torch.erf(x),
        "without the half": lambda x: x * (1 + torch.erf(x / math.sqrt(2.0))),
        "another cubic": lambda x: 0.5 * x * (1 + torch.tanh(C * (x + 0.0447 * x**3))),
    }
)
def test_other_functions_stay(function: Function) -> None:
    x = torch.randn(3, 20)
    after, decibels, _ = raised(Written(function), x, [RaiseSilu(), RaiseGelu()])
    assert not {"aten.silu.default", "aten.gelu.default"} & set(after)
    assert decibels > 200


def test_gate_of_geglu_is_raised_and_the_product_stays() -> None:
    def function(x: Tensor) -> Tensor:
        value, gate = x.chunk(2, -1)
        return value * (0.5 * gate * (1 + torch.erf(gate / math.sqrt(2.0))))

    after, decibels, _ = raised(Written(function), torch.randn(3, 20), [RaiseGelu()])
    assert "aten.gelu.default" in after
    assert after.count("aten.mul.Tensor") == 1
    assert decibels > 100


def test_a_sigmoid_that_others_use_stays_for_them() -> None:
    def function(x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        return x * s + s

    after, decibels, _ = raised(Written(function), torch.randn(3, 20), [RaiseSilu()])
    assert "aten.silu.default" in after
    assert "aten.sigmoid.default" in after
    assert decibels > 100
