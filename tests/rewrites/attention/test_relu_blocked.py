"""Declared ReLU attention stays within the budget, computes what it did, and is left alone where it fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.models.attention import AttnProcessor
from sdmobile.rewrites.attention.relu_blocked import ReluAttentionBlocked
from tests.rewrites.attention.reference import rewritten


class Declared(nn.Module):
    """The attention of a mobile UNet, with ReLU."""

    def __init__(self, normaliser: str, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.processor, self.heads, self.scale = AttnProcessor(normaliser), heads, (width // heads) ** -0.5
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        attention: Any = self
        return self.processor.mixed(attention, x, context)


def _inputs(batch: int, queries: int, keys: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(queries)
    return torch.randn(batch, queries, 12, generator=generator), torch.randn(batch, keys, 12, generator=generator)


def _largest_scores(result: Any, keys: int) -> int:
    values = [node.meta["val"] for node in result.program.graph.nodes if node.op == "call_function"]
    return max(
        one.numel() for one in values if isinstance(one, torch.Tensor) and one.ndim == 4 and one.shape[-1] == keys
    )


@pytest.mark.parametrize("normaliser", ["none", "length"])
@given(queries=st.integers(2, 40), keys=st.integers(20, 30), rows=st.integers(1, 39))
@settings(max_examples=10, deadline=None)
def test_no_tensor_of_scores_exceeds_the_budget(normaliser: str, queries: int, keys: int, rows: int) -> None:
    inputs, budget = _inputs(2, queries, keys), 2 * 3 * keys * 2 * rows
    module = Declared(normaliser)
    result = rewritten(module, inputs, ReluAttentionBlocked(budget_bytes=budget))
    torch.testing.assert_close(result.program.module()(*inputs), module(*inputs))
    applied = [record.outcome == "applied" for record in result.records]
    assert applied == [queries > rows]
    assert 2 * _largest_scores(result, keys) <= max(budget, 2 * 3 * keys * 4 * 2)  # kᵀ itself has D = 4 rows


def test_what_fits_is_left_alone() -> None:
    result = rewritten(Declared("length"), _inputs(1, 16, 16), ReluAttentionBlocked())
    assert [record.outcome for record in result.records] == ["unmatched"]


def test_a_budget_below_one_row_is_refused() -> None:
    result = rewritten(Declared("length"), _inputs(2, 5, 20), ReluAttentionBlocked(budget_bytes=239))
    assert result.records[0].reason == "the scores of one query take 240 bytes, more than the budget of 239"


def test_a_relu_that_is_no_attention_is_left_alone() -> None:
    class Layers(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            scores = (x @ y.mT).relu()
            return scores @ y, scores  # whose scores something else uses

    inputs = tuple(torch.randn(1, 2, 8, 4) for _ in range(2))
    result = rewritten(Layers(), inputs, ReluAttentionBlocked(budget_bytes=64))
    assert [record.outcome for record in result.records] == ["unmatched"]
