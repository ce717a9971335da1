"""GroupNorm and LayerNorm in many spellings become one operator; what only looks like them is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdmobile.rewrites.raising.norm import RaiseGroupNorm, RaiseLayerNorm
from tests.rewrites.raising.spellings import FINISHES, STATISTICS, Written, norm_of, raised, statistics

GROUP_NORM, LAYER_NORM = "aten.group_norm.default", "aten.layer_norm.default"


def grouped(groups: int, affine: bool, spelling: str, finish: str) -> Written:
    """GroupNorm by reshape to (N, G, C/G·positions)."""

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        normal = norm_of(statistics(spelling, [2]), FINISHES[finish])
        y = normal(x.reshape(x.shape[0], groups, -1)).reshape(x.shape)
        shape = [1, -1] + [1] * (x.ndim - 2)
        return y * parameters[0].view(shape) + parameters[1].view(shape) if parameters else y

    return Written(function, 8 if affine else 0)


@given(
    spelling=st.sampled_from(STATISTICS),
    finish=st.sampled_from(sorted(FINISHES)),
    affine=st.booleans(),
    groups=st.sampled_from([1, 2, 4]),
    batch=st.integers(1, 3),
    positions=st.sampled_from([(5,), (3, 4), (2, 7)]),
)
@settings(max_examples=20, deadline=None)
def test_any_spelling_of_group_norm(
    spelling: str, finish: str, affine: bool, groups: int, batch: int, positions: tuple[int, ...]
) -> None:
    x = torch.randn(batch, 8, *positions, generator=torch.Generator().manual_seed(0))
    after, decibels, refusals = raised(grouped(groups, affine, spelling, finish), x, [RaiseGroupNorm()])
    # One group without an affine step is a layer norm of all but the first axis as well; both readings are right.
    assert refusals == []
    assert after.count(GROUP_NORM) == 1
    assert not {"aten.sqrt.default", "aten.rsqrt.default", "aten.mean.dim"} & set(after)
    assert decibels > 100


def test_instance_norm_of_a_reshape() -> None:
    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = torch.nn.functional.instance_norm(x.reshape(2, 4, -1), eps=1e-6).reshape(x.shape)
        return y * weight[:, None, None] + bias.reshape(8, 1, 1)

    after, decibels, _ = raised(Written(function, 8), torch.randn(2, 8, 3, 5), [RaiseGroupNorm()])
    assert GROUP_NORM in after
    assert "aten.instance_norm.default" not in after
    assert decibels > 100


def test_casts_around_the_norm_do_not_hide_it() -> None:
    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = x.float().reshape(2, 2, -1)
        y = (y - y.mean(-1, keepdim=True)) / torch.sqrt(y.var(-1, unbiased=False, keepdim=True) + 1e-6)
        return y.reshape(x.shape).type(x.dtype) * weight[None, :, None] + bias[None, :, None]

    after, decibels, _ = raised(Written(function, 8), torch.randn(2, 8, 6), [RaiseGroupNorm()])
    assert GROUP_NORM in after
    assert decibels > 100


def _refused_group_norm(function: Callable[[Tensor], Tensor]) -> tuple[list[str], str]:
    after, decibels, refusals = raised(Written(function), torch.randn(2, 8, 3, 4), [RaiseGroupNorm()])
    assert GROUP_NORM not in after
    assert decibels == math.inf or decibels > 150
    assert len(refusals) == 1
    assert refusals[0] is not None
    return after, refusals[0]


def test_group_norm_refuses_unbiased_variance() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.reshape(2, 4, -1)
        return ((y - y.mean(2, keepdim=True)) * torch.rsqrt(y.var(2, keepdim=True) + 1e-5)).reshape(x.shape)

    assert "unbiased" in _refused_group_norm(function)[1]


@pytest.mark.parametrize("deviation", ["sqrt", "std"])
def test_group_norm_refuses_epsilon_outside_the_root(deviation: str) -> None:
    def function(x: Tensor) -> Tensor:
        y = x.reshape(2, 4, -1)
        s = y.var(2, correction=0, keepdim=True).sqrt() if deviation == "sqrt" else y.std(2, correction=0, keepdim=True)
        return ((y - y.mean(2, keepdim=True)) / (s + 1e-5)).reshape(x.shape)

    assert "inside the root" in _refused_group_norm(function)[1]


def test_group_norm_refuses_other_axes() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.reshape(2, 4, 2, 12)  # mean over positions only, variance over the group
        v = y.var((2, 3), correction=0, keepdim=True)
        return ((y - y.mean(3, keepdim=True)) * torch.rsqrt(v + 1e-5)).reshape(x.shape)

    assert "other axes" in _refused_group_norm(function)[1]


def test_batch_statistics_are_not_a_group_norm() -> None:
    def function(x: Tensor) -> Tensor:
        d = x - x.mean((0, 2, 3), keepdim=True)
        return d * torch.rsqrt((d * d).mean((0, 2, 3), keepdim=True) + 1e-5)

    assert "other axes" in _refused_group_norm(function)[1]


def test_root_mean_square_norm_is_another_operator() -> None:
    def function(x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-5)

    after, _, refusals = raised(Written(function), torch.randn(2, 8, 3, 4), [RaiseGroupNorm()])
    assert "aten.rsqrt.default" in after
    assert refusals == []


@given(
    spelling=st.sampled_from(STATISTICS),
    finish=st.sampled_from(sorted(FINISHES)),
    affine=st.booleans(),
    shape=st.sampled_from([(3, 8), (2, 5, 8), (1, 2, 3, 8)]),
)
@settings(max_examples=20, deadline=None)
def test_any_spelling_of_layer_norm(spelling: str, finish: str, affine: bool, shape: tuple[int, ...]) -> None:
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
def test_layer_norm_refuses(function: Callable[[Tensor], Tensor], reason: str) -> None:
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
