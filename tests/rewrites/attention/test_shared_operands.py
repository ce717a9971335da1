"""Masks and keys that heads share are not copied for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sdmobile.rewrites.attention.shared_operands import AttentionGroupedKeys, AttentionMaskHeads
from sdmobile.rewrites.engine import agreement, rewrite
from sdmobile.rewrites.program import run
from sdmobile.rewrites.rule import Rule
from tests.rewrites.attention.reference import captured

aten = torch.ops.aten


class Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def applied(function: Callable[..., Tensor], rule: Rule, *inputs: Tensor) -> tuple[set[str], int, float]:
    """Returns the operators and the highest rank after a rule that must apply, and how near the outputs are, in dB."""
    before = captured(Function(function), *inputs)
    rewritten = rewrite(before, [rule])
    assert [record.outcome for record in rewritten.records] == ["applied"]
    nodes = [n for n in rewritten.program.graph.nodes if n.op == "call_function"]
    decibels = agreement(run(before, inputs), run(rewritten.program, inputs))
    return {str(n.target) for n in nodes}, max(n.meta["val"].ndim for n in nodes), decibels


def left(function: Callable[..., Tensor], rule: Rule, *inputs: Tensor) -> tuple[str, str | None]:
    (record,) = rewrite(captured(Function(function), *inputs), [rule]).records
    return record.outcome.value, record.reason


@given(batch=st.integers(1, 3), heads=st.integers(1, 4), queries=st.integers(1, 5), keys=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_one_mask_for_all_heads(batch: int, heads: int, queries: int, keys: int) -> None:
    def attend(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, k, mask.repeat_interleave(heads, 0).view(batch, heads, -1, keys))

    inputs = (torch.randn(batch, heads, queries, 4), torch.randn(batch, heads, keys, 4), torch.randn(batch, 1, keys))
    operators, _, decibels = applied(attend, AttentionMaskHeads(), *inputs)
    assert "aten.repeat_interleave.self_int" not in operators
    assert decibels > 140


def test_a_mask_repeated_in_another_order_is_left_alone() -> None:
    """Two pictures of two heads each: repetition of the whole gives the second head the other picture's mask."""

    def attend(q: Tensor, mask: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, q, q, mask.repeat(2, 1, 1).view(2, 2, -1, 5))

    inputs = (torch.randn(2, 2, 5, 4), torch.randn(2, 1, 5))
    assert left(attend, AttentionMaskHeads(), *inputs) == ("unmatched", None)


def expanded(x: Tensor, times: int) -> Tensor:
    """As Transformers repeats keys."""
    return x[:, :, None].expand(-1, -1, times, -1, -1).reshape(len(x), -1, *x.shape[2:])


REPEATS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "expanded": expanded,
    "repeat_interleave": lambda x, times: x.repeat_interleave(times, 1),
}


@pytest.mark.parametrize("way", [*REPEATS, "by the operator"])
@pytest.mark.parametrize("masked", ["no mask", "a row", "all rows"])
@pytest.mark.parametrize(("batch", "groups", "times"), [(1, 2, 3), (2, 1, 4)])
def test_grouped_keys(way: str, masked: str, batch: int, groups: int, times: int) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        added = None if masked == "no mask" else mask
        if way == "by the operator":
            return scaled_dot_product_attention(q, k, v, added, enable_gqa=True)
        repeat = REPEATS[way]
        return scaled_dot_product_attention(q, repeat(k, times), repeat(v, times), added, scale=0.3)

    q, (k, v) = torch.randn(batch, groups * times, 5, 4), torch.randn(2, batch, groups, 6, 4)
    mask = torch.randn(batch, 1, 1 if masked == "a row" else 5, 6)
    operators, rank, decibels = applied(attend, AttentionGroupedKeys(), q, k, v, mask)
    assert rank == 4
    assert not {"aten.expand.default", "aten.repeat_interleave.self_int"} & operators
    assert decibels > 130


def test_grouped_keys_that_are_causal_by_a_flag_are_refused() -> None:
    def attend(q: Tensor, k: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, expanded(k, 2), expanded(k, 2), is_causal=True)

    outcome, reason = left(attend, AttentionGroupedKeys(), torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8))
    assert outcome == "refused"
    assert "causal" in str(reason)


def test_a_mask_of_each_head_is_refused_with_its_shape() -> None:
    def attend(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, expanded(k, 2), expanded(k, 2), mask)

    inputs = (torch.randn(1, 4, 5, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 4, 5, 6))
    assert "(1, 4, 5, 6)" in str(left(attend, AttentionGroupedKeys(), *inputs)[1])


def test_ordinary_attention_is_left_alone() -> None:
    def attend(q: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, q, q)

    for rule in (AttentionMaskHeads(), AttentionGroupedKeys()):
        assert left(attend, rule, torch.randn(1, 2, 5, 8)) == ("unmatched", None)
