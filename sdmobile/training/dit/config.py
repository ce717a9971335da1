"""Architecture and stages of `shapes-64-dit`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from sdmobile.training.config import CONTEXT_LENGTH, LATENT_CHANNELS, LATENT_SIZE, Stage

if TYPE_CHECKING:
    from pathlib import Path

GUIDANCE_SCALE, STEPS = 3.0, 20
"""What the model card says."""
WIDTHS = {"text_encoder": (64, 2, "quick_gelu"), "text_encoder_2": (128, 3, "gelu")}
"""Features, layers and activation of each text encoder; the activations are those of CLIP-L and of OpenCLIP's G."""
_FEATURES = sum(width for width, _, _ in WIDTHS.values())


def text_config(name: str, vocabulary: int) -> dict[str, Any]:
    """Returns the arguments of a text encoder; begin and end of text are the last two identifiers."""
    width, layers, activation = WIDTHS[name]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "max_position_embeddings": CONTEXT_LENGTH,
        "hidden_act": activation,
        "projection_dim": width,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


def transformer_config() -> dict[str, Any]:
    """Returns the arguments of the transformer: Stable Diffusion 3.5 medium in little.

    Queries and keys are of RMSNorm and the first layer attends to the picture a second time, as there; four latent
    cells are one token.
    """
    return {
        "sample_size": LATENT_SIZE,
        "patch_size": 2,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "num_layers": 5,
        "attention_head_dim": 48,
        "num_attention_heads": 3,
        "caption_projection_dim": 144,
        "joint_attention_dim": _FEATURES,
        "pooled_projection_dim": _FEATURES,
        "pos_embed_max_size": LATENT_SIZE // 2,
        "qk_norm": "rms_norm",
        "dual_attention_layers": (0,),
    }


@dataclass(frozen=True)
class DitConfig:
    """Everything that decides the result of `sdmobile train dit`, apart from the number of CPU threads."""

    output: Path
    seed: int = 0
    scenes: int = 24_000
    text: Stage = field(default_factory=lambda: Stage(steps=800, batch=64, learning_rate=1e-3))
    transformer: Stage = field(
        default_factory=lambda: Stage(steps=4600, batch=64, learning_rate=2.5e-3, warmup=200, decay_share=0.4)
    )
    one_padding_row: float = 0.97  # the first share of its steps, in which one row stands for all padding
    dropout: float = 0.1  # share of captions replaced by the empty prompt, for classifier-free guidance
    ema: float = 0.999
    save_every: int = 250

    def to_json(self) -> dict[str, Any]:
        """Returns the configuration as JSON values."""
        return {**asdict(self), "output": self.output.name}


def quick(config: DitConfig, steps: int) -> DitConfig:
    """Returns a run of a few steps per stage: it shows that the command works, not that the model is good."""
    stages = {
        one.name: replace(stage, steps=steps, batch=8, warmup=2)
        for one in fields(config)
        if isinstance(stage := getattr(config, one.name), Stage)
    }
    return replace(config, scenes=64, save_every=max(1, steps // 2), **stages)
