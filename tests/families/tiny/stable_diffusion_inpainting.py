"""A Stable Diffusion of few blocks whose UNet takes mask and masked picture beside the noisy latent."""

from __future__ import annotations

from pathlib import Path

from tests.families.tiny.stable_diffusion import FEW_BLOCKS
from tests.synthetic import write_checkpoint

CHANGES = {
    "unet": {**FEW_BLOCKS, "in_channels": 9},
    "index": {"_class_name": "StableDiffusionInpaintPipeline"},
}


def write(folder: Path) -> Path:
    """Writes a Diffusers folder."""
    return write_checkpoint(folder, changes=CHANGES)
