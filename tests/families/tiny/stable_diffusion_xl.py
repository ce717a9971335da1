"""A Stable Diffusion XL of few blocks: two text encoders of different widths, sizes and a pooled text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdmobile.families import family_named
from tests.families.tiny.stable_diffusion import FEW_BLOCKS
from tests.synthetic import TINY_TEXT, XL, write_checkpoint

SECOND: dict[str, Any] = {
    **TINY_TEXT,
    "hidden_size": 48,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "projection_dim": 24,
}
UNET: dict[str, Any] = {
    **FEW_BLOCKS,
    "cross_attention_dim": 32 + 48,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 24,
    "use_linear_projection": True,
}


def write(
    folder: Path,
    scheduler: dict[str, Any] = XL["scheduler"],
    changes: dict[str, dict[str, Any]] | None = None,
    second: dict[str, Any] = SECOND,
) -> Path:
    """Writes a Diffusers folder.

    Args:
        folder: where it goes.
        scheduler: its configuration.
        changes: to the configurations of models and of the index.
        second: configuration of the second text encoder.
    """
    changes = {"unet": UNET, "vae": {"scaling_factor": 0.13025}, **(changes or {}), "scheduler": scheduler}
    family = family_named("stable-diffusion-xl")
    return write_checkpoint(folder, changes=changes, family=family, instead={"text_encoder_2": second})
