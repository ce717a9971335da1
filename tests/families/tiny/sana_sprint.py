"""A SANA-Sprint of two layers, with a Gemma 2 of two and a DC-AE of three levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdmobile.families import family_named
from tests.synthetic import GEMMA, write_checkpoint

TRANSFORMER: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 1,
    "in_channels": 8,
    "out_channels": 8,
    "num_layers": 2,
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 16,
    "cross_attention_dim": 32,
    "caption_channels": 32,
    "guidance_embeds": True,
    "guidance_embeds_scale": 0.1,
    "qk_norm": "rms_norm_across_heads",
}
VAE: dict[str, Any] = {
    "latent_channels": 8,
    "attention_head_dim": 8,
    "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv",
    "scaling_factor": 0.41407,
}
for _side in ("encoder", "decoder"):
    VAE[f"{_side}_block_types"] = ["ResBlock", "EfficientViTBlock", "EfficientViTBlock"]
    VAE[f"{_side}_block_out_channels"] = [16, 32, 64]
    VAE[f"{_side}_layers_per_block"] = [1, 1, 1]
    VAE[f"{_side}_qkv_multiscales"] = [[], [5], [5]]
SCHEDULER: dict[str, Any] = {
    "_class_name": "SCMScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "trigflow",
    "sigma_data": 0.5,
}
INDEX: dict[str, Any] = {
    "_class_name": "SanaSprintPipeline",
    "scheduler": ["diffusers", "SCMScheduler"],
    "text_encoder": ["transformers", "Gemma2Model"],
    "tokenizer": ["transformers", "GemmaTokenizerFast"],
    "transformer": ["diffusers", "SanaTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderDC"],
}


def write(folder: Path, changes: dict[str, dict[str, Any]] | None = None) -> Path:
    """Writes a Diffusers folder.

    Args:
        folder: where it goes.
        changes: to the configurations of models, of the scheduler and of the index.
    """
    changes = {**(changes or {})}
    changes["index"] = {**INDEX, **changes.get("index", {})}
    instead = {"text_encoder": GEMMA, "transformer": TRANSFORMER, "vae": VAE, "scheduler": SCHEDULER}
    return write_checkpoint(folder, changes=changes, family=family_named("sana-sprint"), instead=instead)
