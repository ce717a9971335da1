"""Factors split into float16 numbers: how exactly, where, and what it does to a float16 package."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.basics.metrics import psnr
from sdmobile.rewrites.constants import SplitConstants, float16_factors
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.program import run


def half(c: float) -> float:
    return float(torch.tensor(c).half())


@given(st.floats(2.0**-14, 2.0**15), st.booleans())
@settings(max_examples=200, deadline=None)
def test_two_float16_numbers_whose_product_is_the_factor(magnitude: float, negative: bool) -> None:
    c = -magnitude if negative else magnitude
    a, b = float16_factors(c)
    assert (half(a), half(b)) == (a, b)
    assert 1.0 <= a < 2.0
    assert abs(a * b / c - 1) < 2.0**-16
    assert abs(a * b / c - 1) <= abs(half(c) / c - 1)


@pytest.mark.parametrize("c", [1.702, 32**-0.5, 40**-0.5, 80**-0.5, 160**-0.5, math.sqrt(2 / math.pi)])
def test_the_factors_that_occur(c: float) -> None:
    a, b = float16_factors(c)
    assert abs(a * b / c - 1) < 2.0**-18
    assert abs(half(c) / c - 1) > 2.0**-16


@pytest.mark.parametrize("c", [0.125, 0.5, 2.0, 1.5, -3.0])
def test_what_float16_holds_is_left_alone(c: float) -> None:
    assert float16_factors(c) == (1.0, c)


class Scaled(nn.Module):
    """A quick GELU, a division, a product that float16 holds, and an attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.sigmoid(1.702 * x) + x / 3.0 + x * 0.5
        heads = y.reshape(1, -1, 2, self.width).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)


class Attention(nn.Module):
    """Two heads of four: a scale of 1/2."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.reshape(1, -1, 2, 4).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads)


def test_splits_products_quotients_and_scales_and_nothing_else() -> None:
    x = torch.randn(1, 6, 16)
    program = torch.export.export(Scaled(8), (x,))
    rewritten = rewrite(program, [SplitConstants()])
    assert [r.outcome for r in rewritten.records] == ["applied"] * 3
    assert psnr(run(program, (x,))[0], run(rewritten.program, (x,))[0]) > 110
    for node in rewritten.program.graph.nodes:
        scalars = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, float)]
        assert all(half(c) == c for c in scalars)


def test_a_scale_that_is_a_power_of_two_needs_nothing() -> None:
    x = torch.randn(1, 6, 8)
    program = torch.export.export(Attention(), (x,))
    assert [r.outcome for r in rewrite(program, [SplitConstants()]).records] == ["unmatched"]


def test_constants_in_float16_cost_parity_and_the_rule_gives_it_back() -> None:
    """The effect in a float16 package: constants are rounded, arithmetic is not."""
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    expected = x.double() * torch.sigmoid(1.702 * x.double())
    a, b = float16_factors(1.702)
    assert psnr(expected, x * torch.sigmoid(x * half(1.702))) < 110
    assert psnr(expected, x * torch.sigmoid(x * a * b)) > 125


def test_in_float16_arithmetic_one_rounding_more() -> None:
    """The price: about 1 dB of the product itself."""
    x = torch.randn(4, 4096, generator=torch.Generator().manual_seed(0)).half()
    expected = x.double() * torch.sigmoid(1.702 * x.double())
    a, b = float16_factors(1.702)
    before = psnr(expected, x * torch.sigmoid(x * half(1.702)))
    assert psnr(expected, x * torch.sigmoid(x * a * b)) > before - 1.5
