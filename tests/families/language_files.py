"""What every language model's file is held to, as a text encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sdmobile.basics.metrics import psnr
from sdmobile.device_profiles import load_profile
from sdmobile.lint import lint_file
from sdmobile.rewrites.engine import agreement, rewrite
from sdmobile.rewrites.program import run
from sdmobile.rewrites.registry import rules_for
from sdmobile.rewrites.tables import fold_tables
from sdmobile.rewrites.tidy import tidy
from tests.rewrites.litert_files import litert_file

DEVICES = ("iphone-15-pro", "galaxy-s23-ultra", "android-cpu")


def check_axes_and_types(encoder: nn.Module, ids: Tensor, device: str) -> None:
    """Checks that a device gets four axes at most, no Booleans, and what was captured; places are two tables."""
    inputs = (ids.float() if device.startswith("iphone") else ids.int(),)
    captured, _ = tidy(torch.export.export(encoder, inputs, strict=False))
    program, tables = fold_tables(captured)
    assert tables == 2  # cosine and sine
    after = rewrite(program, rules_for(load_profile(device))).program
    values = [value for node in after.graph.nodes if isinstance(value := node.meta.get("val"), torch.Tensor)]
    assert max(value.ndim for value in values) == 4
    assert torch.bool not in {value.dtype for value in values}
    assert agreement(run(captured, inputs), run(after, inputs)) > 95


def check_android_file(encoder: nn.Module, ids: Tensor, folder: Path) -> None:
    """Checks that an Android GPU's file computes what PyTorch does, and that the lint says nothing of it."""
    file = litert_file(encoder, (ids.int(),), rules_for(load_profile("galaxy-s23-ultra")), folder)
    assert psnr(file.expected, file.run()) > 100
    report = lint_file(file.path)
    assert report.accepted
    assert not report.findings
