"""Modules of the constants of exported components, found again by their values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sdmobile.formats.mlprogram.constants import WeightReader, weight_constants
from sdmobile.quantize.recipes import flat_path


@pytest.fixture(scope="session")
def unet(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """The tiny UNet as the exporter writes it for a phone, attention rewritten to convolutions; and its module."""
    from sdmobile.checkpoints import load_model, open_checkpoint
    from sdmobile.exporters.component import export_component
    from sdmobile.exporters.job import ExportJob

    folder = tmp_path_factory.mktemp("unet")
    export_component(ExportJob(tiny_checkpoint, "unet", "ios", None, "batch2", None, folder))
    return folder / "Unet.mlpackage", load_model(open_checkpoint(tiny_checkpoint), "unet")


def test_every_weight_is_that_of_its_module(unet: tuple[Path, torch.nn.Module]) -> None:
    path, module = unet
    weights = {
        flat_path(name): child.weight.detach().half().float().numpy()
        for name, child in module.named_modules()
        if isinstance(child, (torch.nn.Linear, torch.nn.Conv2d))
    }
    reader = WeightReader(path)
    constants = weight_constants(path)
    assert {constant.module for constant in constants} == set(weights)
    scaled = []
    for constant in constants:
        stored = reader.read(constant).astype(np.float32)
        expected = weights[constant.module].reshape(stored.shape)
        if constant.module.endswith("to_q"):  # the converter folds the scale of attention into some of the queries
            factor = float(np.vdot(stored, expected) / np.vdot(expected, expected))
            scaled.append(factor)
            assert np.abs(stored - factor * expected).max() <= 2e-3 * np.abs(stored).max(), constant.name
        else:
            assert np.array_equal(stored, expected), constant.name
    assert scaled
