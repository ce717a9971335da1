"""T5's encoder as a file has it: texts of one length, and nothing but arithmetic and look-ups in tables.

Transformers makes the mask of Booleans and the distances of whole numbers, which converters or an Android GPU refuse.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, scaled_dot_product_attention

MASKED = -3e4
"""What is added to a score that shall not count; float16 holds it, and e to it is 0."""


def distance_buckets(length: int, buckets: int, most: int) -> Tensor:
    """Returns the row of T5's bias table for each pair of a query i and a key j, [L, L].

        b(d) = d for d < B/4, else min(B/2 − 1, B/4 + ⌊B/4·ln(d/(B/4)) / ln(most/(B/4))⌋),  d = |j − i|

    and B/2 more where j is after i.

    Args:
        length: L, of a text in tokens.
        buckets: B, rows of the table.
        most: distance from which on all are one bucket.

    Source: Raffel et al., arXiv 1910.10683, section 2.1; the formula is that of Transformers' T5Attention, in float32
    as there.
    """
    half, exact = buckets // 2, buckets // 4
    offsets = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    distances = offsets.abs()
    share = torch.log(distances.clamp(min=1).float() / exact) / math.log(most / exact)
    far = (exact + (share * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(distances < exact, distances, far) + half * (offsets > 0)


class T5TextEncoder(nn.Module):
    """Token ids (1, L), int32 or float32 -> last hidden state (1, L, D).

    Args:
        component: a T5EncoderModel.
        length: L.
        pad: identifier of the token that fills up a text.
    """

    buckets: Tensor
    masked: Tensor

    def __init__(self, component: Any, length: int, pad: int) -> None:
        super().__init__()
        self.component = component
        config = component.config
        sizes = (config.relative_attention_num_buckets, config.relative_attention_max_distance)
        self.register_buffer("buckets", distance_buckets(length, *sizes), persistent=False)
        self.register_buffer("masked", MASKED * torch.eye(config.vocab_size, 1).roll(pad, 0), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.is_floating_point():
            ids = ids.to(torch.int32)
        encoder = self.component.encoder
        hidden = self.component.shared(ids)
        table = encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        bias = table(self.buckets).permute(2, 0, 1).unsqueeze(0)
        bias = bias + embedding(ids, self.masked).transpose(1, 2).unsqueeze(1)
        for block in encoder.block:
            attention, feed_forward = block.layer
            hidden = hidden + _attended(attention.SelfAttention, attention.layer_norm(hidden), bias)
            hidden = feed_forward(hidden)
        return encoder.final_layer_norm(hidden)


def _attended(attention: Any, x: Tensor, bias: Tensor) -> Tensor:
    """Returns what a layer's attention gives, [B, L, D].

    Args:
        attention: of the layer.
        x: normalised, [B, L, D].
        bias: is added to the scores, [1, H, L, L].
    """
    shape = (*x.shape[:2], attention.n_heads, attention.key_value_proj_dim)
    query, key, value = (layer(x).view(shape).transpose(1, 2) for layer in (attention.q, attention.k, attention.v))
    attended = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
    return attention.o(attended.transpose(1, 2).flatten(2))
