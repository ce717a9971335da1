"""A PixArt-Σ of two layers, with a gated T5 of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdmobile.families import family_named
from tests.synthetic import write_checkpoint

TEXT: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
}
TRANSFORMER: dict[str, Any] = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "cross_attention_dim": 32,
    "caption_channels": 32,
    "num_embeds_ada_norm": 1000,
    "use_additional_conditions": False,
}
VAE: dict[str, Any] = {"scaling_factor": 0.13025}
SCHEDULER: dict[str, Any] = {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "solver_order": 2,
    "steps_offset": 0,
}
INDEX: dict[str, Any] = {
    "_class_name": "PixArtSigmaPipeline",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "PixArtTransformer2DModel"],
}


def write(
    folder: Path, transformer: dict[str, Any] = TRANSFORMER, changes: dict[str, dict[str, Any]] | None = None
) -> Path:
    """Writes a Diffusers folder.

    Args:
        folder: where it goes.
        transformer: its configuration.
        changes: to the configurations of models, of the scheduler and of the index.
    """
    changes = {"vae": VAE, **(changes or {})}
    changes["index"] = {**INDEX, **changes.get("index", {})}
    instead = {"text_encoder": TEXT, "transformer": transformer, "scheduler": SCHEDULER}
    return write_checkpoint(folder, changes=changes, family=family_named("pixart-sigma"), instead=instead)
