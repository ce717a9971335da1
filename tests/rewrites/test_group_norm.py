"""The two forms of GroupNorm against PyTorch's, in float32 and, where it matters, in float16."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.basics.metrics import psnr
from sdmobile.rewrites.group_norm import (
    GroupNormNhwcAmax,
    group_norm_by_channel_moments,
    group_norm_by_instance_norm,
    group_norm_nhwc_amax,
)
from tests.rewrites.litert_files import litert_file

FORMS = [group_norm_by_instance_norm, group_norm_nhwc_amax, group_norm_by_channel_moments]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


def plain_group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """GroupNorm by its equation, the variance being a tensor: what converters emit by default."""
    n, c = x.shape[:2]
    grouped = x.reshape(n, groups, -1)
    d = grouped - grouped.mean(2, keepdim=True)
    y = d / ((d * d).mean(2, keepdim=True) + eps).sqrt()
    return y.reshape(x.shape) * weight.reshape(1, c, 1, 1) + bias.reshape(1, c, 1, 1)


def example(std: float, mean: float = 0.0) -> tuple[Tensor, int, Tensor, Tensor, float]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 128, 12, 12, generator=generator) * std + mean
    return x, 32, 1 + 0.2 * torch.randn(128, generator=generator), 0.2 * torch.randn(128, generator=generator), 1e-5


@forms
@pytest.mark.parametrize("std", [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0])
def test_float32_over_five_decades(form: Callable[..., Tensor], std: float) -> None:
    x, groups, weight, bias, eps = example(std, mean=0.3 * std)
    assert psnr(torch.group_norm(x, groups, weight, bias, eps), form(x, groups, weight, bias, eps)) > 125


@pytest.mark.parametrize("std", [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0])
def test_amax_form_holds_in_float16(std: float) -> None:
    x, groups, weight, bias, eps = example(std)
    x = x.half().float()  # the input's own rounding is not the norm's fault
    reference = torch.group_norm(x, groups, weight, bias, eps)
    half = group_norm_nhwc_amax(x.half(), groups, weight.half(), bias.half(), eps)
    assert psnr(reference, half) > 70


def test_plain_form_overflows_in_float16() -> None:
    """The reason for the rule; if this fails, the rule can go."""
    x, groups, weight, bias, eps = example(1000.0)
    half = plain_group_norm(x.half(), groups, weight.half(), bias.half(), eps)
    assert psnr(torch.group_norm(x, groups, weight, bias, eps), half) < 25


@pytest.mark.parametrize("eps", [1e-5, 1e-6 / 4**7], ids=["usual", "of a scaled stream"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_constant_input_gives_the_bias(dtype: torch.dtype, eps: float) -> None:
    x, bias = torch.full((1, 8, 4, 4), 3.0, dtype=dtype), torch.arange(8, dtype=dtype)
    y = group_norm_nhwc_amax(x, 4, torch.ones(8, dtype=dtype), bias, eps)
    assert torch.equal(y, bias.reshape(1, 8, 1, 1).expand_as(y))


@forms
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 5),
    width=st.integers(1, 4),
    positions=st.one_of(st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 6), st.integers(1, 6))),
    affine=st.booleans(),
    eps=st.sampled_from([1e-6, 1e-5, 1e-3]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_any_shape(
    form: Callable[..., Tensor],
    batch: int,
    groups: int,
    width: int,
    positions: tuple[int, ...],
    affine: bool,
    eps: float,
    seed: int,
) -> None:
    if width * math.prod(positions) == 1:
        positions = (*positions[:-1], positions[-1] + 1)  # PyTorch refuses one value per group
    generator = torch.Generator().manual_seed(seed)
    channels = groups * width
    x = torch.randn(batch, channels, *positions, generator=generator)
    weight = torch.randn(channels, generator=generator) if affine else None
    bias = torch.randn(channels, generator=generator) if affine else None
    expected = torch.group_norm(x, groups, weight, bias, eps)
    # Two nearly equal values in a group divide a rounding error by a tiny deviation, hence the tolerance.
    torch.testing.assert_close(form(x, groups, weight, bias, eps), expected, rtol=1e-3, atol=1e-3)


def test_seventeen_operators_of_rank_four_in_a_file(tmp_path: Path) -> None:
    """Between two convolutions; the bound of the scale is part of a division, so that no MINIMUM is left."""
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    module = nn.Sequential(ChannelsFirst(), nn.Conv2d(4, 8, 1), norm, nn.Conv2d(8, 4, 1), ChannelsLast())
    x = torch.randn(2, 5, 5, 4)
    x[1] = 0.25  # no deviations in this image
    case = litert_file(module, (x,), [GroupNormNhwcAmax()], tmp_path)
    assert psnr(case.expected, case.run()) > 100
    counts = case.facts.operators
    assert counts.pop("CONV_2D") == 2
    assert sum(counts.values()) == 17
    assert counts["RESHAPE"] == 2
    assert not {"TRANSPOSE", "BROADCAST_TO", "MINIMUM", "RELU6"} & set(counts)
    assert case.facts.max_rank == 4


class ChannelsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)
