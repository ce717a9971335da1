"""A Stable Diffusion of few blocks whose UNet takes a picture's latent beside the noisy one."""

from __future__ import annotations

from pathlib import Path

from tests.families.tiny.stable_diffusion import FEW_BLOCKS
from tests.synthetic import write_checkpoint

CHANGES = {
    "unet": {**FEW_BLOCKS, "in_channels": 8},
    "index": {"_class_name": "StableDiffusionInstructPix2PixPipeline"},
}


def write(folder: Path) -> Path:
    """Writes a Diffusers folder."""
    return write_checkpoint(folder, changes=CHANGES)
