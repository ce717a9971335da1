"""Tiny models of other families, captured, rewritten for a device and lowered: right, and accepted by the lints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdmobile.basics.metrics import psnr
from sdmobile.device_profiles import load_profile
from sdmobile.lint import lint_file
from sdmobile.rewrites.engine import agreement, rewrite
from sdmobile.rewrites.options import RewriteOptions
from sdmobile.rewrites.program import run
from sdmobile.rewrites.registry import rules_for
from sdmobile.rewrites.repeat import RepeatChannels, RepeatHeads
from sdmobile.rewrites.tables import fold_tables
from sdmobile.rewrites.tidy import tidy
from tests.rewrites.litert_files import litert_file
from tests.rewrites.tiny_transformers import CASES, case

DEVICES = ("iphone-15-pro", "galaxy-s23-ultra", "android-cpu")


@pytest.mark.parametrize("name", CASES)
def test_every_device_gets_the_same_function_with_four_axes(name: str) -> None:
    module, inputs = case(name)
    with torch.no_grad():
        expected = (module(*inputs),)
        program, _ = tidy(torch.export.export(module, inputs, strict=False))
    program, _ = fold_tables(program)
    for device in DEVICES:
        for plain in (False, True):
            after = rewrite(program, rules_for(load_profile(device), RewriteOptions(plain_ops=plain))).program
            values = [node.meta.get("val") for node in after.graph.nodes]
            assert max(value.ndim for value in values if isinstance(value, Tensor)) == 4
            # The timestep table of a GPU and factors that float16 holds are as near as this.
            assert agreement(expected, run(after, inputs)) > 95


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_google_gpu_lint_accepts_it(name: str, tmp_path: Path) -> None:
    module, inputs = case(name)
    file = litert_file(module, inputs, rules_for(load_profile("galaxy-s23-ultra")), tmp_path)
    assert psnr(file.expected, file.run()) > 120
    assert lint_file(file.path).accepted


class Repeated(torch.nn.Module):
    """Channels of an image and heads, repeated; and along other axes, which no rule is about."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        heads = x[:, :, None].expand(-1, -1, 2, -1, -1).reshape(2, 6, 4, 5)
        others = x.repeat_interleave(2, 2), x[:, None].expand(-1, 2, -1, -1, -1).reshape(2, 6, 4, 5)
        return x.repeat_interleave(3, 1), heads, *others


def test_only_channels_and_heads_are_repeated_otherwise() -> None:
    inputs = (torch.randn(2, 3, 4, 5),)
    before = torch.export.export(Repeated(), inputs)
    rewritten = rewrite(before, [RepeatHeads(), RepeatChannels()])
    assert [(record.rule, record.outcome) for record in rewritten.records] == [
        ("repeat_heads", "applied"),
        ("repeat_channels", "applied"),
    ]
    for one, other in zip(run(before, inputs), run(rewritten.program, inputs), strict=True):
        assert torch.equal(one, other)
