"""Architecture and schedule of the bundled checkpoint `shapes-64`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

# Apple's Swift package has these built in: epsilon prediction, this beta schedule and this scaling factor
# (apple/ml-stable-diffusion, Scheduler.swift and StableDiffusionPipeline.Configuration.swift).
SCALING_FACTOR = 0.18215
BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
}
CONTEXT_LENGTH = 77
LATENT_CHANNELS = 4
LATENT_SIZE = 16


@dataclass(frozen=True)
class Stage:
    """Length and step size of one training stage."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    decay_share: float = 0.3  # the learning rate is flat, then falls to zero over this last share of the steps


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the result of `sdmobile train shapes`, apart from the number of CPU threads."""

    output: Path
    seed: int = 0
    scenes: int = 24_000
    vae: Stage = field(default_factory=lambda: Stage(steps=2000, batch=32, learning_rate=8e-4, decay_share=0.5))
    text: Stage = field(default_factory=lambda: Stage(steps=650, batch=64, learning_rate=1e-3))
    unet: Stage = field(
        default_factory=lambda: Stage(steps=2900, batch=64, learning_rate=8e-4, warmup=200, decay_share=0.4)
    )
    kl_weight: float = 1e-4
    dropout: float = 0.1  # share of captions replaced by the empty prompt, for classifier-free guidance
    ema: float = 0.999
    save_every: int = 250

    def to_json(self) -> dict[str, Any]:
        """Returns the configuration as JSON values."""
        return {**asdict(self), "output": self.output.name}


def unet_config() -> dict[str, Any]:
    """Returns the arguments of the UNet: SD 1.5's block types; like MobileDiffusion, no attention at the top level."""
    return {
        "sample_size": LATENT_SIZE,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "block_out_channels": (48, 96, 192),
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "cross_attention_dim": 128,
        "attention_head_dim": 6,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    }


def vae_config() -> dict[str, Any]:
    """Returns the arguments of the autoencoder: four pixels per latent cell, attention in the middle."""
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": LATENT_CHANNELS,
        "block_out_channels": (16, 32, 64),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "sample_size": LATENT_SIZE * 4,
        "scaling_factor": SCALING_FACTOR,
    }


def text_config(vocab_size: int) -> dict[str, Any]:
    """Returns the arguments of the CLIP text encoder; begin and end of text are the last two identifiers."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT_LENGTH,
        "hidden_act": "quick_gelu",
        "projection_dim": 128,
        "bos_token_id": vocab_size - 2,
        "eos_token_id": vocab_size - 1,
        "pad_token_id": vocab_size - 1,
    }
