"""Convolutions cut along their input channels: the same numbers, only where needed."""

from __future__ import annotations

from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sdmobile.basics.metrics import psnr
from sdmobile.device_profiles import load_profile
from sdmobile.device_profiles.runtime_rules.winograd import ML_DRIFT
from sdmobile.rewrites.convolution_slices import ConvolutionSlices
from sdmobile.rewrites.engine import Rewritten, rewrite
from sdmobile.rewrites.registry import rules_for

ROWS = 8192  # of every WebGPU adapter


def rewritten(module: nn.Module, x: torch.Tensor, rows: int) -> Rewritten:
    return rewrite(torch.export.export(module.eval(), (x,), strict=False), [ConvolutionSlices(rows)])


@given(st.integers(1, 5000), st.integers(36, 9000))
def test_slices_fit_cover_all_channels_and_are_as_few_as_can_be(channels: int, rows: int) -> None:
    sizes = ConvolutionSlices(rows).sizes(channels)
    assert sum(sizes) == channels
    assert min(sizes) > 0
    assert max(ML_DRIFT.texture_rows(size) for size in sizes) <= rows
    assert len(sizes) == ceil(ceil(channels / 4) / (rows // 36))
    assert not [size for size in sizes[:-1] if size % 4]


@settings(max_examples=10, deadline=None)
@given(st.integers(64, 200), st.sampled_from((64, 70)), st.booleans(), st.integers(0, 2))
def test_the_sum_of_the_slices_is_the_convolution(channels: int, outputs: int, bias: bool, padding: int) -> None:
    module = nn.Conv2d(channels, outputs, 3, padding=padding, bias=bias)
    x = torch.randn(1, channels, 26, 27)
    result = rewritten(module, x, 36 * 10)
    (record,) = result.records
    slices = ceil(ceil(channels / 4) / 10)
    assert [record.outcome.value, len(record.details["slices"])] == ["applied", slices]
    with torch.no_grad():
        assert psnr(module(x), result.program.module()(x)) > ConvolutionSlices.bound_db


@pytest.mark.parametrize(
    ("module", "size", "reason"),
    [
        (nn.Conv2d(908, 64, 3, padding=1), 32, "8172 rows"),
        (nn.Conv2d(1280, 64, 3, padding=1), 16, "16 tiles"),
        (nn.Conv2d(1280, 64, 1), 32, "kernel"),
        (nn.Conv2d(1280, 64, 3, stride=2, padding=1), 64, "stride"),
        (nn.Conv2d(1280, 32, 3, padding=1), 32, "32 channels"),
    ],
)
def test_what_a_texture_holds_or_is_computed_directly_is_left_alone(module: nn.Module, size: int, reason: str) -> None:
    assert isinstance(module, nn.Conv2d)
    (record,) = rewritten(module, torch.zeros(1, module.in_channels, size, size), ROWS).records
    assert record.outcome.value == "refused"
    assert reason in str(record.reason)


def test_only_the_browser_cuts_them() -> None:
    cutting = {
        device: [rule.name for rule in rules_for(load_profile(device))]
        for device in ("phone-browser", "galaxy-s23-ultra", "android-cpu", "iphone-15-pro")
    }
    assert [device for device, rules in cutting.items() if "convolution_slices" in rules] == ["phone-browser"]
