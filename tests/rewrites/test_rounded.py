"""The errors that are drawn for float16 sums of four, against such sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdmobile.basics.metrics import psnr
from sdmobile.rewrites.composites.builder import load_marks
from sdmobile.rewrites.composites.layer_norm import layer_norm_composite
from sdmobile.rewrites.layer_norm import layer_norm_plain
from sdmobile.rewrites.rounded import rounded_range


def _half(value: Tensor) -> Tensor:
    return value.half().float()


def _sums_of_four(rows: Tensor, weights: Tensor) -> Tensor:
    """rows · weightsᵀ as Google's engine adds it up with float32 sums: [M, K], [N, K] to [M, N]."""
    total = torch.zeros(len(rows), len(weights))
    for start in range(0, rows.shape[1], 4):
        part = torch.zeros_like(total)
        for index in range(start, min(start + 4, rows.shape[1])):
            part = _half(part + _half(rows[:, index, None] * weights[None, :, index]))
        total += part
    return total


def _rms(error: Tensor) -> float:
    return float(error.double().square().mean().sqrt())


class _Product(nn.Module):
    def __init__(self, kind: str, weights: Tensor) -> None:
        super().__init__()
        self.kind = kind
        self.weights = nn.Parameter(weights)

    def forward(self, rows: Tensor) -> Tensor:
        if self.kind == "linear":
            return functional.linear(rows, self.weights, torch.full((len(self.weights),), 0.5))
        if self.kind == "convolution":
            return functional.conv2d(rows.T[None, :, :, None], self.weights[:, :, None, None])[0, :, :, 0].T
        if self.kind == "einsum":
            return torch.einsum("mk,nk->mn", rows, self.weights)
        return rows @ self.weights.T


@pytest.mark.parametrize("kind", ["linear", "convolution", "einsum", "matmul"])
@pytest.mark.parametrize(("inner", "mean"), [(64, 0.0), (320, 0.0), (320, 1.0), (1280, 1.0)])
def test_the_error_is_as_large_as_that_of_sums_written_out(kind: str, inner: int, mean: float) -> None:
    generator = torch.Generator().manual_seed(inner)
    rows = _half(torch.randn(60, inner, generator=generator) + mean)
    weights = _half(torch.randn(40, inner, generator=generator) / math.sqrt(inner))
    added = 0.5 if kind == "linear" else 0.0
    exact = rows.double() @ weights.double().T + added
    program = torch.export.export(_Product(kind, weights), (rows,))
    (found,), _ = rounded_range(program, (rows,), sums_of_four=True)
    written_out = _half(_sums_of_four(rows, weights) + added)
    assert _rms(found - exact) == pytest.approx(_rms(written_out - exact), rel=0.12)
    (once,), _ = rounded_range(program, (rows,))
    assert _rms(once - exact) < 0.7 * _rms(written_out - exact)  # a sum of float32 alone would promise too much
    (again,), _ = rounded_range(program, (rows,), sums_of_four=True)
    assert torch.equal(found, again)


@pytest.mark.parametrize("composite", [True, False])
def test_a_norm_of_one_kernel_is_rounded_where_it_ends(composite: bool) -> None:
    """Its squares are beyond float16's range."""
    load_marks()
    rows = _half(200 * torch.randn(1, 6, 48, generator=torch.Generator().manual_seed(0)))
    rows[0, :, 0] = 600.0
    weight, bias = torch.full((48,), 1.25), torch.full((48,), 0.5)

    class Norm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            form = layer_norm_composite if composite else layer_norm_plain
            return form(x, weight, bias, 1e-5)

    program = torch.export.export(Norm(), (rows,))
    (found,), largest = rounded_range(program, (rows,), sums_of_four=True)
    exact = functional.layer_norm(rows.double(), [48], weight.double(), bias.double(), 1e-5)
    decibels = psnr(exact.float().numpy(), found.numpy())
    assert (decibels > 70.0) == composite
    assert (largest < 65504.0) == composite
