"""LayerNorm in plain operators against PyTorch's, in float32 and float16, and what is left of it in a `.tflite`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.basics.metrics import psnr
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.layer_norm import LayerNormPlain, layer_norm_amax, layer_norm_plain
from tests.rewrites.litert_files import litert_file

DECADES = pytest.mark.parametrize("std", [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0])


@given(
    lead=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    width=st.integers(2, 40),
    affine=st.booleans(),
    eps=st.sampled_from([1e-6, 1e-5, 1e-3]),
    exponent=st.integers(-3, 4),
    offset=st.integers(-3, 3),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=80, deadline=None)
def test_any_shape_and_size(
    lead: list[int], width: int, affine: bool, eps: float, exponent: int, offset: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(*lead, width, generator=generator, dtype=torch.float64) + offset) * 10.0**exponent
    weight, bias = torch.randn(2, width, generator=generator, dtype=torch.float64) if affine else (None, None)
    expected = torch.layer_norm(x, (width,), weight, bias, eps)

    def single(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.float()

    rule = layer_norm_plain(x.float(), single(weight), single(bias), eps).double()
    torchs = torch.layer_norm(x.float(), (width,), single(weight), single(bias), eps).double()
    error, allowed = (rule - expected).abs().max(), (torchs - expected).abs().max()
    assert error <= 4 * allowed + 1e-5 * expected.abs().max() + 1e-6


@pytest.mark.parametrize("std", [0.03, 1.0, 30.0])
def test_float16_is_no_worse_than_the_converters_form(std: float) -> None:
    x = (torch.randn(64, 320, generator=torch.Generator().manual_seed(0)) * std + 0.5 * std).half()
    reference = torch.layer_norm(x.float(), (320,))
    mean = x.mean(-1, keepdim=True)
    root = torch.rsqrt(((x - mean) ** 2).mean(-1, keepdim=True) + 1e-5)
    converters = x * root + (0 - mean * root)
    assert psnr(reference, layer_norm_plain(x)) > max(65.0, psnr(reference, converters))


def test_ten_operators_in_the_file(tmp_path: Path) -> None:
    norm = nn.LayerNorm(24)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    case = litert_file(norm, (torch.randn(2, 5, 24),), [LayerNormPlain()], tmp_path)
    assert psnr(case.expected, case.run()) > 120
    assert sum(case.facts.operators.values()) == 10
    assert case.facts.operators["RESHAPE"] == 1


def test_a_norm_over_two_axes_is_refused() -> None:
    program = torch.export.export(nn.LayerNorm([3, 4]), (torch.randn(2, 3, 4),))
    (record,) = rewrite(program, [LayerNormPlain()]).records
    assert record.outcome == "refused"
    assert "(3, 4) of (2, 3, 4)" in (record.reason or "")


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
def test_any_shape_scaled_by_the_largest_deviation(
    shape: list[int], width: int, affine: bool, eps: float, magnitude: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, width, generator=generator) * magnitude
    weight, bias = (torch.randn(width, generator=generator) if affine else None for _ in range(2))
    gamma, beta = (None if p is None else p.double() for p in (weight, bias))
    expected = torch.layer_norm(x.double(), (width,), gamma, beta, eps)
    # Two nearly equal values in a row divide a rounding error by a tiny deviation, hence the tolerance.
    torch.testing.assert_close(layer_norm_amax(x, weight, bias, eps).double(), expected, rtol=1e-3, atol=1e-3)
