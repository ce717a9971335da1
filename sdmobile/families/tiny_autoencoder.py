"""TAESD: a small autoencoder of Stable Diffusion's latents without attention or norms, Diffusers' AutoencoderTiny.

    picture = 2·g(3·tanh(z/3)) − 1        z: latents as the denoiser sees them, not divided by a scaling factor

Ollin Boer Bohan, github.com/madebyollin/taesd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdmobile.families.component import Config, Shapes

CLASS = "AutoencoderTiny"
WIDTHS = "decoder_block_out_channels"
SCALING_FACTOR = 1.0
"""Diffusers' default: latents are taken as they are."""
_FIRST, _IMAGE = "decoder.layers.0.weight", "encoder.layers.0.weight"
_LOG_VARIANCE = -30.0  # the least that Diffusers' distribution of latents takes: a spread of 3e-7


def is_tiny(shapes: Shapes) -> bool:
    """Returns whether tensors by Diffusers' names are those of an AutoencoderTiny."""
    return _FIRST in shapes and _IMAGE in shapes


def build(config: Config) -> nn.Module:
    """Makes the module of a configuration."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    # Diffusers writes block_out_channels itself, and then warns of it.
    own = {key: value for key, value in config.items() if key != "block_out_channels"}
    return cast("nn.Module", AutoencoderTiny.from_config(own))


def derive(shapes: Shapes) -> Config:
    """Returns the configuration keys that shapes determine; the number of blocks is in the configuration alone."""
    facts: Config = {"_class_name": CLASS}
    if len(latent := shapes[_FIRST]) == 4:
        facts["latent_channels"] = latent[1]
    if len(image := shapes[_IMAGE]) == 4:
        facts["in_channels"] = image[1]
    return facts


def check(config: Config) -> None:
    """Raises UnsupportedError where a configuration asks for shifted latents, or does not say its widths."""
    if config.get("shift_factor") not in (None, 0, 0.0):
        raise UnsupportedError(
            "the autoencoder must have latents that are only scaled",
            f"{CLASS} with shift_factor {config['shift_factor']}: shifted latents (SD3, Flux)",
        )
    if not isinstance(config.get(WIDTHS), list) or not config[WIDTHS]:
        raise UnsupportedError(f"the configuration of an {CLASS} must say {WIDTHS}", config.get(WIDTHS))


def moments(latent: Tensor) -> Tensor:
    """Returns [N, 2C, h, w] of latents that are no distribution: themselves as mean, and no spread."""
    import torch

    return torch.cat([latent, torch.full_like(latent, _LOG_VARIANCE)], dim=1)
