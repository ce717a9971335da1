"""The tiny MobileDiffusion with its guidance distilled, ReLU in every attention, sampled by trailing DDIM in v."""

from __future__ import annotations

from pathlib import Path

from sdmobile.families import family_named
from tests.families.tiny.mobile_diffusion import INDEX, UNET, VAE
from tests.synthetic import write_checkpoint

SCHEDULER = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", "prediction_type": "v_prediction"}


def write(folder: Path) -> Path:
    """Writes a Diffusers folder."""
    relu = {"self": "length", "cross": "length"}
    return write_checkpoint(
        folder,
        changes={"index": {**INDEX, "scheduler": ["diffusers", "DDIMScheduler"]}, "scheduler": SCHEDULER},
        family=family_named("mobile-diffusion-few-steps"),
        instead={"unet": {**UNET, "relu_attention": relu, "distilled_guidance_scale": 3.0}, "vae": VAE},
    )
