"""A MobileDiffusion of few blocks: a level of full convolutions, one of separable ones with a transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdmobile.families import family_named
from tests.synthetic import write_checkpoint

UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [16, 32],
    "layers_per_block": [1, 1],
    "transformer_layers_per_block": [0, 1],
    "up_transformer_layers_per_block": [0, 1],
    "mid_transformer_layers": None,
    "self_attention": [False, True],
    "separable": [False, True],
    "relu_attention": {"self": "length"},
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
VAE: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "decoder_block_out_channels": [8, 16],
    "decoder_layers_per_block": 1,
    "decoder_mid_block": None,
    "norm_num_groups": 8,
    "sample_size": 32,
}
INDEX = {
    "unet": ["sdmobile.models.unet", "MobileUNet2DConditionModel"],
    "vae": ["sdmobile.models.autoencoder", "MobileAutoencoderKL"],
}


def write(folder: Path, **unet: Any) -> Path:
    """Writes a Diffusers folder, with changes to the UNet's configuration."""
    return write_checkpoint(
        folder,
        changes={"index": INDEX},
        family=family_named("mobile-diffusion"),
        instead={"unet": {**UNET, **unet}, "vae": VAE},
    )
