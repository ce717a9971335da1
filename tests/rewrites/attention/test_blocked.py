"""No score tensor of a blocked attention exceeds its budget, and a budget that is too small is refused."""

from __future__ import annotations

from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionShape
from sdmobile.rewrites.attention.blocked import AttentionBlocked
from tests.rewrites.attention.reference import Attend, rewritten, targets


@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 9),
    queries=st.integers(1, 5000),
    keys=st.integers(1, 5000),
    rows=st.integers(1, 6000),
    spare=st.floats(0.0, 0.99),
)
@settings(max_examples=200, deadline=None)
def test_blocks_fit_and_are_as_few_as_possible(
    batch: int, heads: int, queries: int, keys: int, rows: int, spare: float
) -> None:
    shape = AttentionShape(batch, heads, queries, keys, 8, 8)
    row = shape.row_bytes(2)
    budget = int(rows * row + spare * row)
    rule = AttentionBlocked(budget_bytes=budget)
    high = rule.rows(shape)
    assert 1 <= high <= queries
    assert high * row <= budget
    assert -(-queries // high) == -(-queries // min(rows, queries))


@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    queries=st.integers(2, 20),
    keys=st.integers(9, 30),
    inner=st.sampled_from(["softmax", "partial_softmax"]),
    rows=st.integers(1, 12),
)
@settings(max_examples=15, deadline=None)
def test_no_tensor_of_the_graph_exceeds_the_budget(
    batch: int, heads: int, queries: int, keys: int, inner: str, rows: int
) -> None:
    budget = batch * heads * keys * rows * 2
    rule = AttentionBlocked(budget_bytes=budget, inner=inner)  # type: ignore[arg-type]
    # Operands of one channel are smaller than a row of scores, so the largest tensors are scores.
    operands = (torch.randn(batch, heads, n, 1) for n in (queries, keys, keys))
    call = partial(rule.replacement, attn_mask=None, is_causal=False, scale=None)
    traced = make_fx(call, pre_dispatch=True)(*operands)
    values = [node.meta["val"] for node in traced.graph.nodes if node.op == "call_function"]
    largest = max(value.numel() for value in values if isinstance(value, torch.Tensor))
    assert largest * 2 <= max(budget, batch * heads * max(queries, keys) * 2)


def test_in_a_graph_no_tensor_exceeds_the_budget() -> None:
    inputs = tuple(torch.randn(2, 3, n, 4) for n in (50, 60, 60))
    result = rewritten(Attend(), inputs, AttentionBlocked(budget_bytes=2 * 3 * 60 * 2 * 7))
    assert result.records[0].details["score_bytes_after"] == 2 * 3 * 60 * 2 * 7
    values = (node.meta["val"] for node in result.program.graph.nodes if node.op == "call_function")
    assert max(value.numel() for value in values if isinstance(value, torch.Tensor)) == 2 * 3 * 60 * 7


def test_stable_diffusion_at_512_pixels() -> None:
    """268 MB of scores per image; a buffer of the Adreno 740 holds 134 MB."""
    rule = AttentionBlocked(budget_bytes=134_217_728)
    one, two = (AttentionShape(batch, 8, 4096, 4096, 40, 40) for batch in (1, 2))
    assert (one.score_bytes(), two.score_bytes()) == (268_435_456, 536_870_912)
    assert (rule.rows(one), rule.rows(two)) == (2048, 1024)
    assert rule.written_scores(two, 2) == 134_217_728


def test_one_block_is_no_block() -> None:
    inputs = tuple(torch.randn(1, 2, 5, 4) for _ in range(3))
    result = rewritten(Attend(), inputs, AttentionBlocked(budget_bytes=10**9))
    assert not {"aten.split.Tensor", "aten.cat.default"} & set(targets(result.program))


def test_a_budget_below_one_row_is_refused() -> None:
    inputs = tuple(torch.randn(2, 2, 5, 4) for _ in range(3))
    record = rewritten(Attend(), inputs, AttentionBlocked(budget_bytes=39)).records[0]
    assert record.outcome == "refused"
    assert record.reason == "the scores of one query take 40 bytes, more than the budget of 39"
