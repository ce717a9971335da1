"""The tiny Stable Diffusion XL with the scheduler of its Turbo."""

from __future__ import annotations

from pathlib import Path

from tests.families.tiny import stable_diffusion_xl

SCHEDULER = {
    "_class_name": "EulerAncestralDiscreteScheduler",
    "timestep_spacing": "trailing",
    "prediction_type": "epsilon",
}


def write(folder: Path) -> Path:
    """Writes a Diffusers folder."""
    return stable_diffusion_xl.write(folder, SCHEDULER)
