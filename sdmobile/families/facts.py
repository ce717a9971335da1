"""What a checkpoint's configurations say, in a family's terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a family reads off a checkpoint's configurations.

    Args:
        scheduler_config: configuration of the Diffusers scheduler that the checkpoint was trained for.
        latent_channels: C of a latent [C, h, w].
        latent_size: h and w that the checkpoint was trained on, in latent cells.
        vae_scale_factor: pixels per latent cell along one axis.
        scaling_factor: latents are multiplied by it after encoding and divided by it before decoding.
        context_length: tokens per prompt.
        context_dim: features per token.
        prediction_type: what the denoiser predicts: "epsilon", "v_prediction", "sample" or "flow".
        sizes: further sizes of the family's inputs, by name.
        zeros_where_empty: the unconditional row of an empty negative text is zeros, not what text encoders make of it.
        shift_factor: is subtracted from latents before they are multiplied, and added after they were divided.
        latent_multiple: h and w are multiples of it.
        latent_most: the largest h and w, None where there is none.
    """

    scheduler_config: dict[str, Any]
    latent_channels: int
    latent_size: tuple[int, int]
    vae_scale_factor: int
    scaling_factor: float
    context_length: int
    context_dim: int
    prediction_type: str
    sizes: tuple[tuple[str, int], ...] = ()
    zeros_where_empty: bool = False
    shift_factor: float = 0.0
    latent_multiple: int = 1
    latent_most: int | None = None
