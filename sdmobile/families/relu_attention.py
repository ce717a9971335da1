"""UNets fine-tuned with ReLU in the place of softmax: how a checkpoint says so, and the module that computes it.

    out = relu(q kᵀ / √d) v · c        c = 1 for the normaliser "none", 1/N with N keys for "length"

A checkpoint declares it by the key `relu_attention` in its UNet's `config.json`. Diffusers has no such attention, so
the modules get a processor of ours; everything that follows, the float32 reference included, computes what the
checkpoint was trained for.

Source: Zhao et al., "MobileDiffusion", 2023 (arXiv 2311.16567); the normaliser by length is of Wortsman et al., 2023
(arXiv 2309.08586).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError
from sdmobile.models import NORMALISERS

if TYPE_CHECKING:
    from torch import nn

KEY = "relu_attention"


def declared_normaliser(config: dict[str, Any]) -> str | None:
    """Returns the normaliser that a UNet's configuration declares; None for softmax attention.

    Raises:
        UnsupportedError: a normaliser that is not known.
    """
    value = config.get(KEY)
    if value is not None and value not in NORMALISERS:
        raise UnsupportedError(f"`{KEY}` in a UNet's config.json must be one of {', '.join(NORMALISERS)}", value)
    return value


def use_relu_attention(unet: nn.Module, normaliser: str) -> None:
    """Gives every attention of a Diffusers UNet the ReLU form.

    Args:
        unet: a UNet2DConditionModel; changed in place.
        normaliser: "none" or "length".
    """
    from sdmobile.models.attention import AttnProcessor

    unet.set_attn_processor(AttnProcessor(normaliser))  # type: ignore[operator]
