"""Architecture and stages of `shapes-64-mobile`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sdmobile.training.config import LATENT_CHANNELS, LATENT_SIZE, SCALING_FACTOR, Stage

GUIDANCE_SCALE = 3.0
"""Of `shapes-64`; it is distilled into the student, whose only row is the caption's."""


def unet_config() -> dict[str, Any]:
    """Returns the arguments of the mobile UNet: every rule of the paper, near the widths of `shapes-64`."""
    return {
        "sample_size": LATENT_SIZE,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "block_out_channels": (48, 96, 160),
        "layers_per_block": (1, 1, 2),
        "transformer_layers_per_block": (0, 1, 1),
        "up_transformer_layers_per_block": (0, 1, 1),
        "mid_transformer_layers": 1,
        "self_attention": (False, False, True),
        "separable": (False, False, True),
        "share_key_value": True,
        "feed_forward": "swiglu",
        "feed_forward_multiplier": 3,
        "cross_attention_dim": 128,
        "attention_head_dim": 16,
        "norm_num_groups": 16,
    }


def vae_config() -> dict[str, Any]:
    """Returns the arguments of the autoencoder: the encoder of `shapes-64`, a decoder of half its depth.

    Not of half its width, as the paper's: 8 channels in 8 groups are normalised one by one, which loses the level of a
    flat background (24.5 dB to the teacher's after 1,200 steps).
    """
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": LATENT_CHANNELS,
        "block_out_channels": (16, 32, 64),
        "layers_per_block": 1,
        "decoder_block_out_channels": (16, 32, 64),
        "decoder_layers_per_block": 1,
        "decoder_mid_block": None,
        "norm_num_groups": 8,
        "sample_size": LATENT_SIZE * 4,
        "scaling_factor": SCALING_FACTOR,
    }


@dataclass(frozen=True)
class MobileConfig:
    """Everything that decides the result of `sdmobile train mobile`, apart from the number of CPU threads."""

    output: Path
    seed: int = 0
    distilled: Path | None = None
    """Checkpoint of few steps to make the adapters' base of, in the place of what stage "relu" leaves."""
    scenes: int = 24_000
    structure: Stage = field(
        default_factory=lambda: Stage(steps=2000, batch=64, learning_rate=1e-3, warmup=100, decay_share=0.4)
    )
    decoder: Stage = field(default_factory=lambda: Stage(steps=700, batch=32, learning_rate=1e-3, decay_share=0.5))
    relu: Stage = field(
        default_factory=lambda: Stage(steps=400, batch=32, learning_rate=3e-4, warmup=25, decay_share=0.5)
    )
    guidance: Stage = field(
        default_factory=lambda: Stage(steps=450, batch=32, learning_rate=4e-4, warmup=25, decay_share=0.5)
    )
    halving: Stage = field(
        default_factory=lambda: Stage(steps=300, batch=32, learning_rate=2e-4, warmup=20, decay_share=1.0)
    )
    pairs: int = 6_000
    regression: Stage = field(
        default_factory=lambda: Stage(steps=2000, batch=32, learning_rate=3e-4, warmup=25, decay_share=0.5)
    )
    adversarial: Stage = field(
        default_factory=lambda: Stage(steps=500, batch=32, learning_rate=5e-5, warmup=25, decay_share=0.4)
    )
    recover: Stage = field(
        default_factory=lambda: Stage(steps=450, batch=32, learning_rate=3e-4, warmup=25, decay_share=0.5)
    )
    lora: Stage = field(
        default_factory=lambda: Stage(steps=400, batch=32, learning_rate=1e-3, warmup=20, decay_share=0.4)
    )
    inpaint: Stage = field(
        default_factory=lambda: Stage(steps=400, batch=32, learning_rate=3e-4, warmup=50, decay_share=0.4)
    )
    control: Stage = field(
        default_factory=lambda: Stage(steps=500, batch=32, learning_rate=2e-4, warmup=50, decay_share=0.4)
    )
    plugin: Stage = field(
        default_factory=lambda: Stage(steps=400, batch=32, learning_rate=2e-4, warmup=50, decay_share=0.4)
    )
    dropout: float = 0.1  # share of captions replaced by the empty prompt, while guidance still needs it
    ema: float = 0.999
    save_every: int = 100

    def to_json(self) -> dict[str, Any]:
        """Returns the configuration as JSON values."""
        distilled = self.distilled and self.distilled.name
        return {**asdict(self), "output": self.output.name, "distilled": distilled}


def quick(config: MobileConfig, steps: int) -> MobileConfig:
    """Returns a run of a few steps per stage: it shows that the command works, not that the model is good."""
    names = [one.name for one in fields(config) if isinstance(getattr(config, one.name), Stage)]
    stages = {name: replace(getattr(config, name), steps=steps, batch=8, warmup=2) for name in names}
    return replace(config, scenes=64, pairs=16, save_every=max(1, steps // 2), **stages)
