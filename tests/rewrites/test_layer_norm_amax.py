"""The float16-safe LayerNorm against PyTorch's, in float32 and in float16."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdmobile.basics.metrics import psnr
from sdmobile.rewrites.layer_norm import layer_norm_plain
from sdmobile.rewrites.layer_norm_amax import layer_norm_amax

DECADES = pytest.mark.parametrize("std", [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0])


def example(std: float, offset: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(2, 77, 320, generator=generator) + offset) * std
    return x, 1 + 0.2 * torch.randn(320, generator=generator), 0.2 * torch.randn(320, generator=generator)


def reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """The operator in float64."""
    return torch.layer_norm(x.double(), x.shape[-1:], weight.double(), bias.double(), eps)


@DECADES
def test_float32_over_five_decades(std: float) -> None:
    x, weight, bias = example(std, offset=0.3)
    assert psnr(reference(x, weight, bias), layer_norm_amax(x, weight, bias)) > 125


@DECADES
def test_float16_over_five_decades(std: float) -> None:
    """As on a GPU that sums in float32; weights are float16 numbers to begin with."""
    x, weight, bias = (t.half() for t in example(std))
    assert psnr(reference(x, weight, bias), layer_norm_amax(x, weight, bias)) > 78


@DECADES
def test_no_worse_in_float16_than_the_plain_form(std: float) -> None:
    x, weight, bias = (t.half() for t in example(std))
    expected = reference(x, weight, bias)
    plain = psnr(expected, layer_norm_plain(x, weight, bias))
    assert psnr(expected, layer_norm_amax(x, weight, bias)) > plain - 2


def test_the_plain_form_overflows_in_float16() -> None:
    """The reason for the rule; if this fails, the rule can go."""
    x, weight, bias = (t.half() for t in example(1000.0))
    assert psnr(reference(x, weight, bias), layer_norm_plain(x, weight, bias)) < 30


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_constant_row_gives_the_bias(dtype: torch.dtype) -> None:
    bias = torch.arange(8, dtype=dtype)
    y = layer_norm_amax(torch.full((2, 3, 8), 5.0, dtype=dtype), torch.ones(8, dtype=dtype), bias)
    assert torch.equal(y, bias.expand_as(y))


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    width=st.integers(2, 33),
    affine=st.booleans(),
    eps=st.sampled_from([1e-6, 1e-5, 1e-3]),
    magnitude=st.sampled_from([1e-3, 1.0, 1e4]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_any_shape(shape: list[int], width: int, affine: bool, eps: float, magnitude: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, width, generator=generator) * magnitude
    weight, bias = (torch.randn(width, generator=generator) if affine else None for _ in range(2))
    gamma, beta = (None if p is None else p.double() for p in (weight, bias))
    expected = torch.layer_norm(x.double(), (width,), gamma, beta, eps)
    # Two nearly equal values in a row divide a rounding error by a tiny deviation, hence the tolerance.
    torch.testing.assert_close(layer_norm_amax(x, weight, bias, eps).double(), expected, rtol=1e-3, atol=1e-3)
