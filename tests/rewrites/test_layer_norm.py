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
from sdmobile.rewrites.layer_norm import LayerNormPlain, layer_norm_plain
from tests.rewrites.litert_files import litert_file


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
