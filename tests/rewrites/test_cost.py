"""Costs of graphs against costs worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdmobile.rewrites.cost import cost_of


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, stride=2, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def test_multiply_accumulates_of_convolutions() -> None:
    cost = cost_of(torch.export.export(Convolutions(), (torch.zeros(2, 4, 9, 9),)))
    assert cost.macs == 2 * 8 * 81 * 4 * 9 + 2 * 8 * 16 * 4 * 9
    assert cost.operator_count == 3


def test_peak_is_that_of_the_values_alive_together() -> None:
    cost = cost_of(torch.export.export(Convolutions(), (torch.zeros(2, 4, 9, 9),)), element_bytes=4)
    large, small = 2 * 8 * 81 * 4, 2 * 8 * 16 * 4
    assert cost.peak_bytes == 2 * large  # both sides of the relu
    assert cost.largest_bytes == large > small


class Attention(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class WrittenOut(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-1, -2), -1) @ v


class Einsum(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.einsum("bhqk,bhkd->bhqd", torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k), -1), v)


def test_attention_counts_both_products_and_both_matrices_in_every_way_of_writing_it() -> None:
    q, k, v = torch.zeros(2, 3, 10, 4), torch.zeros(2, 3, 7, 4), torch.zeros(2, 3, 7, 4)
    scores, out = 2 * 3 * 10 * 7, 2 * 3 * 10 * 4
    for module in (Attention(), WrittenOut(), Einsum()):
        cost = cost_of(torch.export.export(module, (q, k, v)), element_bytes=2)
        assert cost.macs == 2 * 3 * 10 * 7 * 4 * 2
        assert cost.peak_bytes in (2 * 2 * scores, 2 * 2 * scores + 2 * out)  # alone, or beside the output


class Splits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.tanh(x).chunk(2, dim=-1)
        return a * b


def test_taking_a_part_is_a_view_of_the_whole() -> None:
    cost = cost_of(torch.export.export(Splits(), (torch.zeros(4, 10),)), element_bytes=4)
    assert cost.peak_bytes == 4 * 4 * (10 + 5)
