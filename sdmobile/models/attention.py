"""Attention of the second paper: softmax or ReLU weights, keys and values by one projection.

    out = w(q kᵀ/√d) v        w = softmax, or relu·c with c = 1 ("none") or 1/N for N keys ("length")

Zhao et al., "MobileDiffusion", 2023 (arXiv 2311.16567); the normaliser by length is of Wortsman et al., 2023
(arXiv 2309.08586).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor


class AttnProcessor:
    """A Diffusers attention processor for unmasked self- and cross-attention on (B, S, C).

    Args:
        normaliser: "none" or "length" for ReLU, "softmax" for softmax.
    """

    def __init__(self, normaliser: str = "softmax") -> None:
        self.normaliser = normaliser

    def mixed(self, attn: Any, hidden_states: Tensor, context: Tensor) -> Tensor:
        """Returns w(q kᵀ/√d) v of every head, [B, heads, S, d], of queries (B, S, C) and keys from (B, L, D)."""
        query, key = attn.to_q(hidden_states), attn.to_k(context)
        value = key if attn.to_v is None else attn.to_v(context)
        batch, _tokens, width = query.shape

        def heads(x: Tensor) -> Tensor:
            return x.view(batch, -1, attn.heads, width // attn.heads).transpose(1, 2)

        q, k, v = heads(query), heads(key), heads(value)
        if self.normaliser == "softmax":
            return nn.functional.scaled_dot_product_attention(q, k, v)
        if self.normaliser == "none":
            return (q @ k.transpose(-1, -2) * attn.scale).relu() @ v
        # Half of 1/N on either side, for float16; and on no operand, or a converter folds it into that one's weights.
        share = k.shape[2] ** -0.5
        return (q @ k.transpose(-1, -2) * (attn.scale * share)).relu() @ v * share

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        if attention_mask is not None or hidden_states.ndim != 3:
            raise UnsupportedError("this attention takes (B, S, C) without a mask", tuple(hidden_states.shape))
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        out = self.mixed(attn, hidden_states, context)
        batch, _heads, tokens, _size = out.shape
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).reshape(batch, tokens, -1)))


def attention(
    width: int, head_width: int, context: int | None, share_key_value: bool, normaliser: str = "softmax"
) -> nn.Module:
    """Makes one attention layer of Diffusers' kind.

    Args:
        width: C of the queries.
        head_width: channels per head.
        context: channels of what the keys are made of; None for self-attention.
        share_key_value: the keys are the values (W_K = W_V); for self-attention.
        normaliser: "softmax", or that of ReLU.
    """
    from diffusers.models.attention_processor import Attention

    layer: Any = Attention(
        width, cross_attention_dim=context, heads=width // head_width, dim_head=head_width, bias=False
    )
    if share_key_value:
        layer.to_v = None
    layer.set_processor(AttnProcessor(normaliser))
    return layer


class SeparableConv2d(nn.Module):
    """A 3×3 convolution as a depthwise one and a pointwise one: y = P(D(x)), [N, C, H, W] to [N, C', H, W].

    Args:
        channels: C.
        out_channels: C'.

    Source: Howard et al., "MobileNets", arXiv 1704.04861.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [N, C', H, W] of [N, C, H, W]."""
        return self.pointwise(self.depthwise(x))
