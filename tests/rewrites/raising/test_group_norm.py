"""GroupNorm in many spellings becomes `aten.group_norm`; what only looks like it is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdmobile.rewrites.raising.group_norm import RaiseGroupNorm
from tests.rewrites.raising.spellings import FINISHES, STATISTICS, Written, norm_of, raised, statistics

GROUP_NORM = "aten.group_norm.default"


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
def test_any_spelling(
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


def _refused(function: Callable[[Tensor], Tensor]) -> tuple[list[str], str]:
    after, decibels, refusals = raised(Written(function), torch.randn(2, 8, 3, 4), [RaiseGroupNorm()])
    assert GROUP_NORM not in after
    assert decibels == math.inf or decibels > 150
    assert len(refusals) == 1
    assert refusals[0] is not None
    return after, refusals[0]


def test_refuses_unbiased_variance() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.reshape(2, 4, -1)
        return ((y - y.mean(2, keepdim=True)) * torch.rsqrt(y.var(2, keepdim=True) + 1e-5)).reshape(x.shape)

    assert "unbiased" in _refused(function)[1]


@pytest.mark.parametrize("deviation", ["sqrt", "std"])
def test_refuses_epsilon_outside_the_root(deviation: str) -> None:
    def function(x: Tensor) -> Tensor:
        y = x.reshape(2, 4, -1)
        s = y.var(2, correction=0, keepdim=True).sqrt() if deviation == "sqrt" else y.std(2, correction=0, keepdim=True)
        return ((y - y.mean(2, keepdim=True)) / (s + 1e-5)).reshape(x.shape)

    assert "inside the root" in _refused(function)[1]


def test_refuses_other_axes() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.reshape(2, 4, 2, 12)  # mean over positions only, variance over the group
        v = y.var((2, 3), correction=0, keepdim=True)
        return ((y - y.mean(3, keepdim=True)) * torch.rsqrt(v + 1e-5)).reshape(x.shape)

    assert "other axes" in _refused(function)[1]


def test_batch_statistics_are_not_a_group_norm() -> None:
    def function(x: Tensor) -> Tensor:
        d = x - x.mean((0, 2, 3), keepdim=True)
        return d * torch.rsqrt((d * d).mean((0, 2, 3), keepdim=True) + 1e-5)

    assert "other axes" in _refused(function)[1]


def test_root_mean_square_norm_is_another_operator() -> None:
    def function(x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-5)

    after, _, refusals = raised(Written(function), torch.randn(2, 8, 3, 4), [RaiseGroupNorm()])
    assert "aten.rsqrt.default" in after
    assert refusals == []
