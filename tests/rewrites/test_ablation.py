"""Rounded execution is what it says: float16 numbers between operators."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdmobile.rewrites.rounded import run_rounded


class Square(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0001, 300.0]))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).square().sqrt()


def test_every_intermediate_is_a_float16_number() -> None:
    x = torch.tensor([1.0, 1.0])
    (y,) = run_rounded(torch.export.export(Square(), (x,)), (x,))
    assert y[0] == 1.0  # 1.0001 is no float16 number: the weight itself is rounded
    assert torch.isinf(y[1])  # 90000 is none either


class Sinusoid(nn.Module):
    def forward(self, t: Tensor) -> Tensor:
        return torch.sin(t * 0.9137) * 1.0009


def test_sinusoids_can_be_kept_exact() -> None:
    t = torch.tensor([999.0])
    program = torch.export.export(Sinusoid(), (t,))
    expected = torch.sin(t * 0.9137) * 1.0009
    (rounded,) = run_rounded(program, (t,))
    (exact,) = run_rounded(program, (t,), exact_sinusoids=True)
    assert abs(exact - expected) < 1e-3
    assert abs(rounded - expected) > 1e-2
