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

if TYPE_CHECKING:
    from torch import Tensor, nn

KEY = "relu_attention"
NORMALISERS = ("none", "length")


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
    unet.set_attn_processor(ReluAttnProcessor(normaliser))  # type: ignore[operator]


class ReluAttnProcessor:
    """A Diffusers attention processor for unmasked self- and cross-attention on (B, S, C).

    Args:
        normaliser: "none" or "length".
    """

    def __init__(self, normaliser: str) -> None:
        self.normaliser = normaliser

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        if attention_mask is not None or hidden_states.ndim != 3:
            raise UnsupportedError("ReLU attention takes (B, S, C) without a mask", tuple(hidden_states.shape))
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.to_q(hidden_states)
        batch, _tokens, width = query.shape
        size = width // attn.heads

        def heads(x: Tensor) -> Tensor:
            return x.view(batch, -1, attn.heads, size).transpose(1, 2)

        q, k, v = heads(query), heads(attn.to_k(context)), heads(attn.to_v(context))
        share = 1.0 if self.normaliser == "none" else 1.0 / k.shape[2]
        out = (q @ k.transpose(-1, -2) * attn.scale).relu() @ (v * share)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).reshape(batch, -1, width)))
