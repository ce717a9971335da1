"""A Z-Image of two layers and a refiner of each kind, with a Qwen3 of three."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdmobile.families import family_named
from tests.synthetic import QWEN3, write_checkpoint

TRANSFORMER: dict[str, Any] = {
    "in_channels": 16,
    "dim": 32,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "cap_feat_dim": 32,
    "axes_dims": [4, 6, 6],
    "axes_lens": [1024, 16, 16],
}
VAE: dict[str, Any] = {
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
INDEX: dict[str, Any] = {
    "_class_name": "ZImagePipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "ZImageTransformer2DModel"],
}


def write(folder: Path, changes: dict[str, dict[str, Any]] | None = None) -> Path:
    """Writes a Diffusers folder.

    Args:
        folder: where it goes.
        changes: to the configurations of models, of the scheduler and of the index.
    """
    changes = {"vae": VAE, **(changes or {})}
    changes["index"] = {**INDEX, **changes.get("index", {})}
    instead = {"text_encoder": QWEN3, "transformer": TRANSFORMER, "scheduler": SCHEDULER}
    return write_checkpoint(folder, changes=changes, family=family_named("z-image"), instead=instead)
