"""A Stable Diffusion of few blocks: converters take their time by the operator, however small it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.synthetic import write_checkpoint

# Attention in the middle block alone; norms, residual blocks, and a skip connection of each kind are there.
FEW_BLOCKS: dict[str, Any] = {
    "block_out_channels": [32],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
}


def write(folder: Path) -> Path:
    """Writes a Diffusers folder of the Stable Diffusion shape."""
    return write_checkpoint(folder, changes={"unet": FEW_BLOCKS})
