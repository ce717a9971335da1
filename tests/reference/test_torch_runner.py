"""A model whose layers do not fit each other is a fault of the checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.errors import CheckpointError
from sdmobile.reference.source import open_source
from tests.families.tiny import write


def test_layers_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """DC-AE repeats its latents to the width of its first layer, which must be a multiple of their channels."""
    changes = {"vae": {"decoder_block_out_channels": [16, 32, 12], "encoder_block_out_channels": [16, 32, 12]}}
    folder = write("sana-sprint", tmp_path / "sana", changes)
    part = open_checkpoint(folder).family.component("vae_decoder")
    runner, spec, _ = open_source(folder, "torch")
    size = spec.geometry
    latent = np.zeros((1, size.latent_channels, size.latent_height, size.latent_width), np.float32)
    with pytest.raises(CheckpointError, match="vae_decoder: "):
        runner.run("vae_decoder", {part.inputs[0].name: latent})
