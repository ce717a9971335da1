"""The tiny Stable Diffusion with SD-Turbo's scheduler."""

from __future__ import annotations

from pathlib import Path

from tests.families.tiny.stable_diffusion import FEW_BLOCKS
from tests.synthetic import write_checkpoint

SCHEDULER = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "prediction_type": "epsilon"}


def write(folder: Path) -> Path:
    """Writes a Diffusers folder."""
    return write_checkpoint(folder, changes={"unet": FEW_BLOCKS, "scheduler": SCHEDULER})
