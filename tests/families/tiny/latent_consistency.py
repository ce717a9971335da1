"""A Stable Diffusion of few blocks with a guidance embedding and the scheduler of latent consistency models."""

from __future__ import annotations

from pathlib import Path

from tests.families.tiny.stable_diffusion import FEW_BLOCKS
from tests.synthetic import write_checkpoint

CHANGES = {
    "unet": {**FEW_BLOCKS, "time_cond_proj_dim": 16},
    "scheduler": {"_class_name": "LCMScheduler", "original_inference_steps": 50, "timestep_scaling": 10.0},
    "index": {"_class_name": "LatentConsistencyModelPipeline", "scheduler": ["diffusers", "LCMScheduler"]},
}


def write(folder: Path) -> Path:
    """Writes a Diffusers folder."""
    return write_checkpoint(folder, changes=CHANGES)
