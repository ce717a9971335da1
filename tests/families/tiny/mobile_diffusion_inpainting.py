"""The tiny MobileDiffusion whose UNet takes mask and masked picture beside the noisy latent."""

from __future__ import annotations

from pathlib import Path

from sdmobile.families import family_named
from tests.families.tiny.mobile_diffusion import INDEX, UNET, VAE
from tests.synthetic import write_checkpoint


def write(folder: Path) -> Path:
    """Writes a Diffusers folder."""
    return write_checkpoint(
        folder,
        changes={"index": INDEX},
        family=family_named("mobile-diffusion-inpainting"),
        instead={"unet": {**UNET, "in_channels": 9}, "vae": VAE},
    )
