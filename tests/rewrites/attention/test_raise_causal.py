"""A triangular mask is recognised by its value, and no other mask is taken for one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdmobile.rewrites.attention.raise_causal import RaiseCausalMask
from tests.rewrites.attention.reference import outcomes, rewritten, targets

M = 6


class Masked(nn.Module):
    """Attention with a mask that forward computes."""

    def __init__(self, mask: Callable[[], Tensor]) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, self.mask())


def by_positions() -> Tensor:
    """As Transformers does: a comparison of ranges, for every image."""
    positions = torch.arange(M) + 0
    return (positions[None, None, None, :] <= positions[None, None, :, None]).expand(2, -1, M, M)


def lowest_above() -> Tensor:
    return torch.full((M, M), torch.finfo(torch.float32).min).triu(1)


def infinite_above() -> Tensor:
    return torch.zeros(M, M).masked_fill(torch.ones(M, M, dtype=torch.bool).triu(1), -math.inf)


def shifted() -> Tensor:
    return torch.ones(M, M, dtype=torch.bool).tril(1)


def mild() -> Tensor:
    return torch.full((M, M), -5.0).triu(1)


def all_keys() -> Tensor:
    return torch.ones(M, M, dtype=torch.bool)


def inputs() -> Tensor:
    return torch.randn(2, 3, M, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mask", [by_positions, lowest_above, infinite_above], ids=lambda mask: mask.__name__)
def test_triangles(mask: Callable[[], Tensor]) -> None:
    result = rewritten(Masked(mask), (inputs(),), RaiseCausalMask())
    assert outcomes(result) == [("raise_causal_mask", "applied")]
    assert targets(result.program) == ["aten.scaled_dot_product_attention.default"]


@pytest.mark.parametrize("mask", [shifted, mild, all_keys], ids=lambda mask: mask.__name__)
def test_other_masks_stay(mask: Callable[[], Tensor]) -> None:
    result = rewritten(Masked(mask), (inputs(),), RaiseCausalMask())
    assert outcomes(result) == [("raise_causal_mask", "unmatched")]


def test_a_mask_that_depends_on_the_input_stays() -> None:
    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kept = (x[0, 0, :, 0] > -100).expand(M, M).tril()
            return F.scaled_dot_product_attention(x, x, x, kept)

    result = rewritten(Padded(), (inputs(),), RaiseCausalMask())
    assert outcomes(result) == [("raise_causal_mask", "unmatched")]
