"""T5's encoder as a file has it: texts of one length, and nothing but arithmetic and look-ups in tables.

Transformers makes the mask of Booleans and the distances of whole numbers, which converters or an Android GPU refuse.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

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

    `expanded` has what converters may make of the table of biases, see `spread`.

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
        self.expanded = {"component.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": self.spread}

    def spread(self, table: Tensor) -> Tensor:
        """Returns the bias of every head and pair of tokens, [1, H, L, L], from the rows of T5's table, [B, H].

        It depends on no input, so that a converter may put it into the file in the table's place.
        """
        return embedding(self.buckets, table).permute(2, 0, 1).unsqueeze(0)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.is_floating_point():
            ids = ids.to(torch.int32)
        encoder = self.component.encoder
        hidden = self.component.shared(ids)
        table = encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        bias = self.spread(table.weight) + embedding(ids, self.masked).transpose(1, 2).unsqueeze(1)
        for block in encoder.block:
            attention, feed_forward = block.layer
            # Added to the scores by scaled_dot_product_attention, which is how Transformers computes them by default.
            hidden = feed_forward(attention(hidden, position_bias=bias)[0])
        return encoder.final_layer_norm(hidden)
