"""ReLU attention computes its own equation, and only where someone stands for it."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from sdmobile.rewrites.attention.relu_attention import ReluAttention
from tests.rewrites.attention.reference import Attend, Case, cases, operands, rewritten


def by_equation(query: Tensor, key: Tensor, value: Tensor, kept: Tensor | None, length: bool) -> Tensor:
    """Returns relu(q kᵀ / √d) v, divided by the number of keys if asked, in float64."""
    query, key, value = query.double(), key.double(), value.double()
    weights = (query @ key.mT / math.sqrt(query.shape[-1])).relu()
    if kept is not None:
        weights = weights * kept
    return weights @ value / (key.shape[-2] if length else 1)


@given(case=cases.filter(lambda case: case.mask != "added"))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("normaliser", ["none", "length"])
def test_against_float64(normaliser: Literal["none", "length"], case: Case) -> None:
    query, key, value, mask = operands(case)
    is_causal = case.mask == "causal"
    rule = ReluAttention(normaliser=normaliser, approved=True)
    y = rule.replacement(query, key, value, mask, is_causal=is_causal, scale=None)
    kept = torch.ones(case.queries, case.keys).tril() if is_causal else mask
    expected = by_equation(query, key, value, kept, normaliser == "length")
    # Sums of terms of both signs: what they may err is relative to the terms.
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=2e-5 * max(1.0, case.magnitude) * case.keys)


def test_length_keeps_float16_sums_finite() -> None:
    query, key = torch.full((1, 1, 2, 8), 3.0).half(), torch.full((1, 1, 4096, 8), 3.0).half()
    value = torch.ones(1, 1, 4096, 8).half()
    y = ReluAttention(approved=True).replacement(query, key, value, None, is_causal=False, scale=None)
    torch.testing.assert_close(y, torch.full_like(y, 72 / math.sqrt(8)), rtol=5e-3, atol=0.0)


def test_refused_unless_someone_stands_for_it() -> None:
    inputs = tuple(torch.randn(1, 2, 4, 8) for _ in range(3))
    record = rewritten(Attend(), inputs, ReluAttention()).records[0]
    assert (record.outcome, record.exactness) == ("refused", "changes-function")
    assert "--allow-approximate relu_attention" in str(record.reason)


def test_approved_it_runs_in_a_graph_and_check_mode_holds_it_to_nothing() -> None:
    x, y, z = (torch.randn(1, 2, 4, 8) for _ in range(3))
    result = rewritten(Attend(), (x, y, z), ReluAttention(approved=True))
    assert result.checks[0].bound_db is None
    expected = by_equation(x, y, z, None, True)
    torch.testing.assert_close(result.program.module()(x, y, z).double(), expected, rtol=1e-4, atol=1e-5)


def test_an_added_mask_is_refused() -> None:
    inputs = (*(torch.randn(1, 2, 4, 8) for _ in range(3)), torch.randn(4, 4))
    record = rewritten(Attend(), inputs, ReluAttention(approved=True)).records[0]
    assert "added to the scores" in str(record.reason)


@pytest.mark.parametrize("masking", ["none", "causal", "boolean"])
def test_blocks_of_queries_compute_the_same_within_the_budget(masking: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 4, generator=generator) for n in (50, 60, 60))
    mask = torch.rand(50, 60, generator=generator) < 0.7 if masking == "boolean" else None
    whole, blocked = (ReluAttention(approved=True, budget_bytes=budget) for budget in (None, 2 * 3 * 60 * 2 * 7))
    call = {"attn_mask": mask, "is_causal": masking == "causal", "scale": None}
    torch.testing.assert_close(
        blocked.replacement(query, key, value, **call), whole.replacement(query, key, value, **call)
    )
    result = rewritten(Attend(), (query, key, value), blocked)
    assert result.records[0].details["score_bytes_after"] == 2 * 3 * 60 * 2 * 7
    values = (node.meta["val"] for node in result.program.graph.nodes if node.op == "call_function")
    assert max(value.numel() for value in values if isinstance(value, torch.Tensor)) == 2 * 3 * 60 * 7


def test_a_budget_below_one_row_is_refused() -> None:
    inputs = tuple(torch.randn(2, 2, 5, 4) for _ in range(3))
    record = rewritten(Attend(), inputs, ReluAttention(approved=True, budget_bytes=39)).records[0]
    assert record.reason == "the scores of one query take 40 bytes, more than the budget of 39"
