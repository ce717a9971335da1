"""What all forms of attention promise: the value, masks of every kind, refusals, and what a record says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn import functional as F

from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionRow
from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules
from sdmobile.rewrites.attention.base import AttentionForm, AttentionTable
from sdmobile.rewrites.attention.blocked import AttentionBlocked
from sdmobile.rewrites.attention.plain_forms import AttentionPartialSoftmax, AttentionPlain, AttentionSdpa
from sdmobile.rewrites.attention.split_einsum import AttentionSplitEinsum
from tests.rewrites.attention.reference import Attend, Case, captured, cases, exact, operands, rewritten, tolerance

FORMS: list[AttentionForm] = [
    AttentionPlain(),
    AttentionPartialSoftmax(),
    AttentionBlocked(budget_bytes=2000),
    AttentionBlocked(budget_bytes=2000, inner="softmax"),
    AttentionSdpa(),
    AttentionSplitEinsum(),
    AttentionSplitEinsum(query_block=4),
]


def label(form: AttentionForm) -> str:
    return "-".join(
        [form.form, *(str(getattr(form, name)) for name in ("inner", "query_block") if hasattr(form, name))]
    )


forms = pytest.mark.parametrize("form", FORMS, ids=label)


def applied(form: AttentionForm, inputs: tuple[Tensor, ...], module: nn.Module) -> Tensor:
    """Returns a module's value after a form has been applied to its one attention."""
    result = rewritten(module, inputs, form)
    assert [record.outcome for record in result.records] == ["applied"]
    return result.program.module()(*inputs)


@forms
@given(case=cases)
@settings(max_examples=20, deadline=None)
def test_against_float64(form: AttentionForm, case: Case) -> None:
    query, key, value, mask = operands(case)
    is_causal = case.mask == "causal"
    # Traced code and plain call are the same function; the plain call is what hypothesis has time for.
    y = evaluate(form, query, key, value, mask, is_causal)
    expected = exact(query, key, value, mask, is_causal)
    torch.testing.assert_close(y.double(), expected, rtol=tolerance(case), atol=tolerance(case))


def evaluate(
    form: AttentionForm, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool = False
) -> Tensor:
    """Returns the value that a form's replacement computes for bare operands."""
    if isinstance(form, AttentionSplitEinsum):
        parts = (query, None, None, key, None, None, value, None, None, None, None, mask)
        scale = 1.0 / math.sqrt(query.shape[-1])
        heads = query.shape[1] if query.ndim == 4 else 1
        return form.replacement(*parts, heads=heads, merged=False, is_causal=is_causal, scale=scale)
    if isinstance(form, AttentionBlocked):
        row = math.prod(query.shape[:-2]) * key.shape[-2] * form.element_bytes
        form = replace(form, budget_bytes=max(row, form.budget_bytes))
    return form.replacement(query, key, value, mask, is_causal=is_causal, scale=None)


@forms
@pytest.mark.parametrize("kind", ["none", "causal", "boolean", "added"])
def test_in_a_graph(form: AttentionForm, kind: str) -> None:
    query, key, value, mask = operands(Case(2, 3, 13, 9, 8, 8, kind, 1.0, 5))
    inputs = (query, key, value) if mask is None else (query, key, value, mask)
    y = applied(form, inputs, Attend(kind == "causal", scale=0.2))
    expected = exact(query * 0.2 * math.sqrt(8), key, value, mask, kind == "causal")
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


@forms
def test_without_an_axis_of_heads(form: AttentionForm) -> None:
    query, key, value = (torch.randn(2, rows, 6) for rows in (11, 7, 7))
    y = applied(form, (query, key, value), Attend())
    torch.testing.assert_close(y.double(), exact(query, key, value, None, False), rtol=1e-5, atol=1e-5)


def psnr(reference: Tensor, value: Tensor) -> float:
    error = float((reference - value.double()).square().mean())
    return 20 * math.log10(float(reference.abs().max())) - 10 * math.log10(max(error, 1e-300))


def float16_gap(form: AttentionForm) -> float:
    """Returns how many decibels a form may lie below softmax attention.

    Normalised last, a result is the quotient of two rounded numbers: three roundings in the place of one, 4.8 dB, where
    those of the probabilities average out.
    """
    return 5.0 if getattr(form, "inner", form.form) == "partial_softmax" else 2.0


@forms
@pytest.mark.parametrize("magnitude", [0.05, 1.0, 8.0, 60.0])
@pytest.mark.parametrize(("queries", "keys"), [(16, 4096), (64, 77)])
def test_float16_against_softmax_attention(form: AttentionForm, magnitude: float, queries: int, keys: int) -> None:
    """PyTorch's half on a CPU rounds after every operator and sums in float32."""
    query, key, value, _ = operands(Case(1, 2, queries, keys, 40, 40, "none", magnitude, 1))
    half = (query.half(), key.half(), value.half())
    reference = exact(*half, None, False)
    plain = ((half[0] * 40**-0.5) @ half[1].mT).softmax(-1) @ half[2]
    assert psnr(reference, evaluate(form, *half, None)) > psnr(reference, plain) - float16_gap(form)


@forms
def test_float16_does_not_overflow(form: AttentionForm) -> None:
    """Equal weights for 4096 keys of a large value: without normalisation their sum is 64 times float16's range."""
    query, key = torch.zeros(1, 2, 4, 8).half(), torch.randn(1, 2, 4096, 8).half()
    value = torch.full((1, 2, 4096, 8), 1000.0).half()
    y = evaluate(form, query, key, value, None)
    torch.testing.assert_close(y, torch.full_like(y, 1000.0), rtol=5e-3, atol=0.0)


@forms
def test_float16_with_far_apart_scores(form: AttentionForm) -> None:
    query, key, value, _ = operands(Case(1, 2, 32, 64, 40, 16, "none", 2000.0, 2))
    y = evaluate(form, query.half(), key.half(), value.half(), None)
    assert bool(y.isfinite().all())


class Shared(nn.Module):
    """Grouped-query attention: two query heads per key head."""

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, key, enable_gqa=True)


class Dropped(nn.Module):
    """Attention with dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, dropout_p=0.25)


@forms
def test_refusals_have_the_value(form: AttentionForm) -> None:
    grouped = rewritten(Shared(), (torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)), form).records[0]
    assert grouped.outcome == "refused"
    assert "4 query heads, 2 key heads" in str(grouped.reason)
    dropped = rewritten(Dropped(), (torch.randn(1, 2, 5, 8),), form).records[0]
    assert "dropout_p is 0.25" in str(dropped.reason)
    deep = tuple(torch.randn(1, 2, 2, 5, 8) for _ in range(3))
    assert "rank 5" in str(rewritten(Attend(), deep, form).records[0].reason)


def test_a_record_says_form_reason_bytes_and_kernel() -> None:
    row = AttentionRow(form="partial_softmax", masked=False, source="the test", reliability="high")
    table = AttentionTable((row,), kernels=KernelRules())
    inputs = tuple(torch.randn(2, 3, rows, 8) for rows in (32, 20, 20))
    details = rewritten(Attend(), inputs, AttentionPartialSoftmax(table=table)).records[0].details
    assert details["form"] == "partial_softmax"
    assert details["why"] == "the test"
    assert details["score_bytes_before"] == details["score_bytes_after"] == 2 * 3 * 32 * 20 * 2
    assert details["runtime_kernel"]["name"] == "as_written"


def test_a_record_predicts_the_kernel_of_one_node() -> None:
    row = AttentionRow(form="sdpa", source="the test", reliability="high")
    inputs = tuple(torch.randn(2, 3, rows, 8) for rows in (32, 20, 20))
    rule = AttentionSdpa(table=AttentionTable((row,), kernels=KernelRules()))
    details = rewritten(Attend(), inputs, rule).records[0].details
    assert details["score_bytes_after"] == 0
    assert details["runtime_kernel"]["name"] == "softmax_reduce"
    assert details["runtime_kernel"]["why"] == "32 queries are fewer than 1024"


def test_a_table_gives_each_attention_its_form() -> None:
    """One rule per form over one table: together they touch every attention once."""

    class Two(nn.Module):
        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            x = F.scaled_dot_product_attention(x, x, x)
            return F.scaled_dot_product_attention(x, context, context)

    table = AttentionTable(
        (
            AttentionRow(form="partial_softmax", key_multiple=4, source="the test", reliability="high"),
            AttentionRow(form="plain", source="the test", reliability="high"),
        )
    )
    inputs = (torch.randn(1, 2, 8, 4), torch.randn(1, 2, 7, 4))
    result = rewritten(Two(), inputs, AttentionPartialSoftmax(table=table), AttentionPlain(table=table))
    assert [(r.rule, r.outcome) for r in result.records] == [
        ("attention_partial_softmax", "applied"),
        ("attention_plain", "applied"),
    ]
    assert result.records[1].details["why"] == "the test; not partial_softmax: 7 keys"


def test_a_constant_of_several_attentions_is_one_tensor() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.scaled_dot_product_attention(x, x, x, is_causal=True)
            return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    x = torch.randn(1, 2, 6, 4)
    result = rewritten(Two(), (x,), AttentionPlain())
    assert [r.outcome for r in result.records] == ["applied"] * 2
    assert len(result.program.constants) == 1
    assert len(captured(Two(), x).constants) == 0
