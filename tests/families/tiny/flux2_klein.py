"""A FLUX.2 [klein] of a double block and two single ones, with a Qwen3 of 28 layers, of which 27 count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sdmobile.families import family_named
from tests.synthetic import QWEN3, WEIGHT_FILES, write_checkpoint

TRANSFORMER: dict[str, Any] = {
    "in_channels": 32,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 48,
    "timestep_guidance_channels": 32,
    "axes_dims_rope": [4, 4, 4, 4],
    "rope_theta": 2000,
    "guidance_embeds": False,
}
TEXT: dict[str, Any] = {**QWEN3, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 28}
VAE: dict[str, Any] = {"latent_channels": 8, "batch_norm_eps": 0.0001, "patch_size": [2, 2]}
SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
INDEX: dict[str, Any] = {
    "_class_name": "Flux2KleinPipeline",
    "is_distilled": True,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "Flux2Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLFlux2"],
}


def write(folder: Path, changes: dict[str, dict[str, Any]] | None = None) -> Path:
    """Writes a Diffusers folder whose latents have a mean and a deviation in every channel.

    Args:
        folder: where it goes.
        changes: to the configurations of models, of the scheduler and of the index.
    """
    changes = dict(changes or {})
    changes["vae"] = {**VAE, **changes.get("vae", {})}
    changes["index"] = {**INDEX, **changes.get("index", {})}
    instead = {"text_encoder": TEXT, "transformer": TRANSFORMER, "scheduler": SCHEDULER}
    write_checkpoint(folder, changes=changes, family=family_named("flux2-klein"), instead=instead)
    file, drawn = folder / "vae" / WEIGHT_FILES["vae"], torch.Generator().manual_seed(0)
    weights = load_file(file)
    count = len(weights["bn.running_mean"])
    statistics = torch.randn(count, generator=drawn), 0.5 + torch.rand(count, generator=drawn)
    weights |= dict(zip(("bn.running_mean", "bn.running_var"), (one.half() for one in statistics), strict=True))
    weights["bn.num_batches_tracked"] = torch.tensor(1000)
    save_file(weights, file, metadata={"format": "pt"})
    return folder
