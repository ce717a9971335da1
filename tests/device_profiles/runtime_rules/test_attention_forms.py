"""The table of forms, and Google's rule against the table derived from it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionRow, AttentionShape, choose
from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules, runtime_kernel

FLASH, PARTIAL = "conv_softmax_conv", "softmax_reduce"


def attention(heads: int, queries: int, keys: int, width: int, masked: bool = False) -> AttentionShape:
    return AttentionShape(1, heads, queries, keys, width, width, masked)


# The attentions of a UNet call at 512 pixels and of the decoder: heads, width in SD1.x; heads, width in SD2.1-base.
PUBLISHED = [
    ((8, 40), (5, 64), 4096, 4096, FLASH, PARTIAL),
    ((8, 40), (5, 64), 4096, 77, PARTIAL, PARTIAL),
    ((8, 80), (10, 64), 1024, 1024, PARTIAL, PARTIAL),
    ((8, 80), (10, 64), 1024, 77, PARTIAL, PARTIAL),
    ((8, 160), (20, 64), 256, 256, PARTIAL, PARTIAL),
    ((8, 160), (20, 64), 256, 77, PARTIAL, PARTIAL),
    ((8, 160), (20, 64), 64, 64, PARTIAL, PARTIAL),
    ((8, 160), (20, 64), 64, 77, PARTIAL, PARTIAL),
    ((1, 512), (1, 512), 4096, 4096, PARTIAL, PARTIAL),
]


@pytest.mark.parametrize(("sd1", "sd2", "queries", "keys", "kernel1", "kernel2"), PUBLISHED)
def test_googles_rule_for_stable_diffusion(
    sd1: tuple[int, int], sd2: tuple[int, int], queries: int, keys: int, kernel1: str, kernel2: str
) -> None:
    rules = KernelRules()
    for (heads, width), kernel in ((sd1, kernel1), (sd2, kernel2)):
        assert runtime_kernel(attention(heads, queries, keys, width), rules).name == kernel


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        (attention(8, 4096, 77, 40), "77 keys are no multiple of 4"),
        (attention(8, 1024, 1024, 80), "20 slices per head are more than 10"),
        (attention(8, 1020, 1024, 40), "1020 queries are fewer than 1024"),
        (attention(8, 4096, 4096, 40, masked=True), "it is masked"),
    ],
)
def test_why_not_flash(shape: AttentionShape, why: str) -> None:
    assert runtime_kernel(shape, KernelRules()).why == why


def test_few_queries_take_ordinary_softmax() -> None:
    assert runtime_kernel(attention(8, 16, 64, 64), KernelRules()).name == "softmax"
    assert runtime_kernel(attention(8, 17, 64, 64), KernelRules()).name == PARTIAL
    assert runtime_kernel(attention(8, 4096, 4096, 40), KernelRules(flash=False)).name == PARTIAL


@pytest.mark.parametrize(
    ("heads", "queries", "keys", "tile"),
    [(5, 4096, 4096, 1), (5, 4096, 2048, 2), (10, 2048, 2048, 4), (20, 2048, 1024, 8), (8, 2048, 1024, None)],
)
def test_head_tiles(heads: int, queries: int, keys: int, tile: int | None) -> None:
    assert runtime_kernel(attention(heads, queries, keys, 64), KernelRules()).heads_per_tile == tile


ROWS = (
    AttentionRow(form="as_captured", masked=True, source="masked", reliability="high"),
    AttentionRow(form="blocked", over_budget=True, source="too large", reliability="high"),
    AttentionRow(form="split_einsum", min_heads=2, max_head_dim=64, source="heads", reliability="low"),
    AttentionRow(form="partial_softmax", min_query=100, key_multiple=4, source="long", reliability="low"),
)


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        (attention(8, 77, 77, 64, masked=True), "as_captured"),
        (attention(8, 4096, 4096, 40), "blocked"),
        (attention(8, 1024, 1024, 40), "split_einsum"),
        (attention(8, 1024, 1024, 80), "partial_softmax"),
        (attention(1, 64, 64, 80), "as_captured"),
    ],
)
def test_the_first_row_that_fits(shape: AttentionShape, form: str) -> None:
    assert choose(shape, ROWS, budget_bytes=134_217_728).form == form


def test_the_reason_names_the_rows_that_do_not_fit() -> None:
    choice = choose(attention(1, 64, 64, 80), ROWS, budget_bytes=134_217_728)
    assert choice.why == (
        "no row of the device's table fits; not as_captured: no mask; not blocked: in budget; "
        "not split_einsum: 1 heads; not partial_softmax: 64 queries"
    )


def test_batch_counts_for_the_budget_and_without_a_budget_nothing_is_over_it() -> None:
    row = AttentionRow(form="blocked", over_budget=True, source="s", reliability="high")
    shape = AttentionShape(2, 8, 2048, 2048, 40, 40)
    assert choose(shape, (row,), 134_217_727).form == "blocked"
    assert choose(shape, (row,), 134_217_728).form == "as_captured"
    assert choose(shape, (row,), None).form == "as_captured"
    assert choose(shape, (row,), 134_217_728, element_bytes=4).form == "blocked"


def test_a_misspelt_condition_is_an_error() -> None:
    with pytest.raises(ValidationError):
        AttentionRow.model_validate({"form": "plain", "min_querys": 3, "source": "s", "reliability": "high"})
    with pytest.raises(ValidationError):
        AttentionRow.model_validate({"form": "flash", "source": "s", "reliability": "high"})
