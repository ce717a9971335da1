"""Linear attention of SANA and DC-AE, scaled, against Diffusers' and in float16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, SanaLinearAttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

from sdmobile.basics.metrics import psnr
from sdmobile.rewrites.attention.linear_attention import LinearAttentionAmax, linear_attention
from sdmobile.rewrites.engine import agreement, rewrite
from sdmobile.rewrites.program import run
from sdmobile.rewrites.tidy import tidy


def operands(std: float, keys: int = 1024) -> tuple[Tensor, Tensor, Tensor]:
    """Returns values with a row of ones, keys and queries, as float16 numbers."""
    generator = torch.Generator().manual_seed(0)
    v, k, q = ((torch.randn(1, 2, 32, keys, generator=generator) * std).half() for _ in range(3))
    return F.pad(v, (0, 0, 0, 1), value=1.0), k.relu().transpose(-1, -2), q.relu()


def as_captured(v: Tensor, k: Tensor, q: Tensor) -> Tensor:
    sums = v.matmul(k).matmul(q)
    return sums[..., :-1, :] / (sums[..., -1:, :] + 1e-15)


@pytest.mark.parametrize("std", [0.01, 1.0, 4.0, 16.0, 50.0])
def test_float16_and_float32_at_any_deviation(std: float) -> None:
    """Every operator rounded, sums in float32 as PyTorch forms them."""
    given = operands(std)
    expected = as_captured(*(x.double() for x in given))
    assert psnr(expected, linear_attention(*given)) > 77
    assert psnr(expected, linear_attention(*(x.float() for x in given))) > 130


@pytest.mark.parametrize("std", [4.0, 16.0])
def test_the_captured_form_does_not_hold_in_float16(std: float) -> None:
    """The reason for the rule; if this fails, it can go."""
    given = operands(std)
    assert not psnr(as_captured(*(x.double() for x in given)), as_captured(*given)) > 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_query_without_weight_gives_zeros(dtype: torch.dtype) -> None:
    v, k, q = (x.to(dtype) for x in operands(1.0, keys=16))
    q[..., 3] = 0
    y = linear_attention(v, k, q)
    assert y[..., 3].abs().max() == 0
    assert y.isfinite().all()


class Sana(nn.Module):
    """The attention of a SANA block."""

    def __init__(self) -> None:
        super().__init__()
        processor: Any = SanaLinearAttnProcessor2_0()
        self.attention = Attention(16, heads=2, dim_head=8, processor=processor)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x)


def test_sana_as_captured() -> None:
    torch.manual_seed(0)
    x = (torch.randn(2, 64, 16),)
    with torch.no_grad():
        before, _ = tidy(torch.export.export(Sana().eval(), x, strict=False))
    rewritten = rewrite(before, [LinearAttentionAmax()])
    assert [(record.outcome, record.details) for record in rewritten.records] == [("applied", {"keys": 64})]
    assert agreement(run(before, x), run(rewritten.program, x)) > 120


class Written(nn.Module):
    """Linear attention by its formula, with what may differ."""

    def __init__(self, ones: float = 1.0, eps: float = 1e-15, relu: bool = True, last: int = -1) -> None:
        super().__init__()
        self.ones, self.eps, self.relu, self.last = ones, eps, relu, last

    def forward(self, v: Tensor, k: Tensor, q: Tensor) -> Tensor:
        k = k.relu() if self.relu else k.exp()
        sums = F.pad(v, (0, 0, 0, 1), value=self.ones) @ k @ q.relu()
        return sums[:, :, : self.last] / (sums[:, :, self.last :] + self.eps)


@pytest.mark.parametrize(
    ("changed", "outcome", "reason"),
    [
        ({}, "applied", None),
        ({"ones": 0.5}, "refused", "no row of ones"),
        ({"eps": 1e-2}, "refused", "ε is 0.01"),
        ({"relu": False}, "refused", "not both behind a ReLU"),
    ],
)
def test_what_differs_is_refused(changed: dict[str, float], outcome: str, reason: str | None) -> None:
    inputs = (torch.randn(1, 2, 4, 6), torch.randn(1, 2, 6, 4), torch.randn(1, 2, 4, 6))
    program = torch.export.export(Written(**changed), inputs)  # type: ignore[arg-type]
    (record,) = rewrite(program, [LinearAttentionAmax()]).records
    assert record.outcome == outcome
    assert (reason or "") in (record.reason or "")
