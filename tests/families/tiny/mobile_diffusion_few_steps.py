"""The tiny MobileDiffusion with its guidance distilled, ReLU attention, v made ε, sampled by trailing DDIM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdmobile.families import family_named
from tests.families.tiny.mobile_diffusion import INDEX, UNET, VAE
from tests.synthetic import write_checkpoint

SCHEDULER = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", "prediction_type": "epsilon"}
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def write(folder: Path, family: str = "mobile-diffusion-few-steps", **changes: Any) -> Path:
    """Writes a Diffusers folder, with changes to the UNet's configuration."""
    unet = {**UNET, "relu_attention": {"self": "length", "cross": "length"}, "noise_schedule": SCHEDULE}
    return write_checkpoint(
        folder,
        changes={"index": {**INDEX, "scheduler": ["diffusers", "DDIMScheduler"]}, "scheduler": SCHEDULER},
        family=family_named(family),
        instead={"unet": {**unet, "distilled_guidance_scale": 3.0, **changes}, "vae": VAE},
    )
