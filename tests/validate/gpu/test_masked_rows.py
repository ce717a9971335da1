"""Attention as one operator, with a mask for each row of a batch: the engine takes the first row's for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdmobile.device_profiles import load_profile
from sdmobile.lint import lint_file
from sdmobile.rewrites.composites.attention import AttentionComposite
from sdmobile.rewrites.registry import rules_for
from sdmobile.validate.gpu import check_file
from sdmobile.validate.gpu.verdict import Way
from tests.rewrites.litert_files import litert_file


class Masked(nn.Module):
    """Two rows, each with a mask of its own."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@pytest.mark.parametrize("alike", [True, False])
def test_the_lint_knows_that_all_rows_get_the_first_ones_mask(
    alike: bool, needs: Callable[[Way], None], tmp_path: Path
) -> None:
    """When the last assertion fails, the engine was mended, and the lint's rule and PixArt's form can go."""
    needs("browser")
    torch.manual_seed(3)
    q, k, v = torch.randn(2, 4, 6, 16), torch.randn(2, 4, 9, 16), torch.randn(2, 4, 9, 16)
    mask = torch.zeros(2, 1, 1, 9)
    mask[0, ..., 5:] = -3e4
    mask[1] = mask[0] if alike else mask[1]
    rules = [rule for rule in rules_for(load_profile("galaxy-s23-ultra")) if isinstance(rule, AttentionComposite)]
    case = litert_file(Masked(), (q, k, v, mask), rules, tmp_path)
    assert [record.outcome.value for record in case.records] == ["applied"]
    report = lint_file(case.path)
    assert (report.verdict, report.rules()) == ("miscomputed", {"attention-mask-rows": 1})
    inputs = {f"x{index}": value.numpy() for index, value in enumerate(case.inputs)}
    verdict = check_file(case.path, inputs, {"y": case.expected}, timeout=120)
    assert verdict.worst is not None, verdict.reason
    assert (verdict.worst.psnr_db > 100) is alike
