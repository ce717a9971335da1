"""A convolution whose transformed weights exceed a texture: the browser runs it cut, not whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sdmobile.rewrites.convolution_slices import ConvolutionSlices
from sdmobile.validate.gpu import check_file
from sdmobile.validate.gpu.verdict import GpuStatus, Way
from tests.rewrites.litert_files import litert_file


@pytest.mark.parametrize("whole", [True, False])
def test_the_browser_runs_what_was_cut_and_not_what_was_not(
    whole: bool, needs: Callable[[Way], None], tmp_path: Path
) -> None:
    """Of 960 to 64 channels at 32×32: 8640 rows. When the whole one runs, the rule has no purpose any more."""
    needs("browser")
    torch.manual_seed(5)
    module, x = nn.Conv2d(960, 64, 3, padding=1), torch.randn(1, 960, 32, 32)
    case = litert_file(module, (x,), [] if whole else [ConvolutionSlices(8192)], tmp_path)
    verdict = check_file(case.path, {"x0": x.numpy()}, {"y": case.expected}, timeout=200)
    if whole:
        assert verdict.status is not GpuStatus.ACCEPTED
        assert "texture" in str(verdict.reason).lower()
        return
    assert verdict.status is GpuStatus.ACCEPTED, verdict.reason
    assert verdict.worst is not None
    assert verdict.worst.psnr_db > 80
