"""The tiny distilled MobileDiffusion whose UNet takes mask and masked picture beside the noisy latent."""

from __future__ import annotations

from pathlib import Path

from tests.families.tiny import mobile_diffusion_few_steps


def write(folder: Path) -> Path:
    """Writes a Diffusers folder."""
    return mobile_diffusion_few_steps.write(folder, "mobile-diffusion-inpainting-few-steps", in_channels=9)
