"""A Stable Diffusion 3 of two layers: text encoders of different widths, latents of 16 channels that are shifted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdmobile.families import family_named
from tests.synthetic import TINY_TEXT, write_checkpoint

FIRST: dict[str, Any] = {**TINY_TEXT, "projection_dim": 24}
SECOND: dict[str, Any] = {
    **TINY_TEXT,
    "hidden_size": 48,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "projection_dim": 40,
}
TRANSFORMER: dict[str, Any] = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 96,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 24 + 40,
    "pos_embed_max_size": 12,
}
"""Of Stable Diffusion 3 medium in little."""
MEDIUM: dict[str, Any] = {**TRANSFORMER, "num_layers": 3, "qk_norm": "rms_norm", "dual_attention_layers": [0, 1]}
"""Of Stable Diffusion 3.5 medium in little."""
VAE: dict[str, Any] = {
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusion3Pipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": [None, None],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": [None, None],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "unet": [None, None],
}


def write(
    folder: Path,
    transformer: dict[str, Any] = TRANSFORMER,
    changes: dict[str, dict[str, Any]] | None = None,
) -> Path:
    """Writes a Diffusers folder.

    Args:
        folder: where it goes.
        transformer: its configuration.
        changes: to the configurations of models, of the scheduler and of the index.
    """
    changes = {"vae": VAE, **(changes or {})}
    changes["index"] = {**INDEX, **changes.get("index", {})}
    instead = {"text_encoder": FIRST, "text_encoder_2": SECOND, "transformer": transformer, "scheduler": SCHEDULER}
    return write_checkpoint(folder, changes=changes, family=family_named("stable-diffusion-3"), instead=instead)
