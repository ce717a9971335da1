"""LayerNorm in many spellings becomes `aten.layer_norm`; what only looks like it is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdmobile.rewrites.raising.group_norm import RaiseGroupNorm
from sdmobile.rewrites.raising.layer_norm import RaiseLayerNorm
from tests.rewrites.raising.spellings import FINISHES, STATISTICS, Written, norm_of, raised, statistics

LAYER_NORM = "aten.layer_norm.default"


@given(
    spelling=st.sampled_from(STATISTICS),
    finish=st.sampled_from(sorted(FINISHES)),
    affine=st.booleans(),
    shape=st.sampled_from([(3, 8), (2, 5, 8), (1, 2, 3, 8)]),
)
@settings(max_examples=20, deadline=None)
def test_any_spelling(spelling: str, finish: str, affine: bool, shape: tuple[int, ...]) -> None:
    normal = norm_of(statistics(spelling, [-1]), FINISHES[finish])

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        return parameters[1] + normal(x) * parameters[0] if parameters else normal(x)

    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    after, decibels, refusals = raised(Written(function, 8 if affine else 0), x, [RaiseLayerNorm(), RaiseGroupNorm()])
    assert refusals == []
    assert after.count(LAYER_NORM) == 1
    assert not {"aten.sqrt.default", "aten.rsqrt.default", "aten.mean.dim"} & set(after)
    assert decibels > 100


def test_weight_without_bias_and_bias_without_weight() -> None:
    normal = norm_of(statistics("var", [-1]), FINISHES["rsqrt"])
    for function in (lambda x, w, b: normal(x) * w, lambda x, w, b: normal(x) + b):
        after, decibels, _ = raised(Written(function, 8), torch.randn(2, 5, 8), [RaiseLayerNorm()])
        assert LAYER_NORM in after
        assert decibels > 100


def test_two_trailing_axes() -> None:
    normal = norm_of(statistics("pow", [-2, -1]), FINISHES["sqrt"])

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normal(x) * weight.view(4, 6) + bias.view(4, 6)

    after, decibels, _ = raised(Written(function, 24), torch.randn(2, 3, 4, 6), [RaiseLayerNorm()])
    assert LAYER_NORM in after
    assert decibels > 100


def test_residual_and_affine_of_something_else_stay() -> None:
    normal = norm_of(statistics("var", [-1]), FINISHES["rsqrt"])
    after, decibels, _ = raised(Written(lambda x: normal(x) * 2 + x), torch.randn(2, 5, 8), [RaiseLayerNorm()])
    assert LAYER_NORM in after
    assert "aten.mul.Tensor" in after
    assert decibels > 100


def test_a_norm_of_a_norm_is_two() -> None:
    normal = norm_of(statistics("var", [-1]), FINISHES["rsqrt"])
    after, decibels, _ = raised(Written(lambda x: normal(normal(x) + x)), torch.randn(2, 5, 8), [RaiseLayerNorm()])
    assert after.count(LAYER_NORM) == 2
    assert decibels > 100


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt(), "unbiased"),
        (lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, correction=0, keepdim=True) + 1e-5), "inside the root"),
        (lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True)).sqrt(), "inside the root"),
    ],
    ids=["unbiased variance", "epsilon outside the root", "no epsilon"],
)
def test_refuses(function: Callable[[Tensor], Tensor], reason: str) -> None:
    after, _, refusals = raised(Written(function), torch.randn(2, 6, 8), [RaiseLayerNorm()])
    assert LAYER_NORM not in after
    assert len(refusals) == 1
    assert refusals[0] is not None
    assert reason in refusals[0]


def test_refuses_channels_first() -> None:
    """The statistics are neither of trailing axes nor of groups, so either rule may say so."""
    normal = norm_of(statistics("var", [1]), FINISHES["rsqrt"])
    x = torch.randn(2, 6, 3, 5)
    after, _, refusals = raised(Written(normal), x, [RaiseLayerNorm(), RaiseGroupNorm()])
    assert "aten.rsqrt.default" in after
    assert len(refusals) == 1
    assert "other axes" in str(refusals[0])
