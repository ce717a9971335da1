"""Z-Image's transformer as a file has it: one text length, real numbers, four axes at most.

Diffusers' own forward takes lists of sequences and multiplies complex numbers; no converter takes that. This one runs
the same modules. All rows of a batch have masks of their own, which become heads (see `pixart_transformer`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from sdmobile.families.single_stream import BLOCK, PATCH, angles, picture_places, text_places
from sdmobile.families.t5_encoder import MASKED

_KEY = f"{PATCH}-1"
_LONGEST_PERIOD = 10_000
_LARGEST = 6e4  # within float16
Turns = tuple[Tensor, Tensor]
"""Cosines and sines of places."""


class ZImageTransformer(nn.Module):
    """Latents, timestep (B,), text features (B, L, D) and mask (B, L) -> velocity in the latents' layout.

    The picture has a multiple of 32 tokens, so that it is not filled up.

    Args:
        component: a ZImageTransformer2DModel.
        channels_last: whether latents lie so in the file.
    """

    def __init__(self, component: Any, channels_last: bool) -> None:
        super().__init__()
        self.component = component
        self.channels_last = channels_last
        self.idle = ("component.x_pad_token",)  # of a picture whose tokens are to be filled up
        last = f"component.all_final_layer.{_KEY}."
        # What converters may put into the last layers of −y and of 1 + scale.
        signs = dict.fromkeys((f"{last}linear.weight", f"{last}linear.bias"), (-1.0, 0.0))
        self.folded = {**signs, f"{last}adaLN_modulation.1.bias": (1.0, 1.0)}

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, mask: Tensor) -> Tensor:
        if encoder_hidden_states.ndim == 4:  # (B, D, 1, L) of the Neural Engine
            encoder_hidden_states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        net = self.component
        picture = sample if self.channels_last else sample.permute(0, 2, 3, 1)
        rows, columns, length = picture.shape[1] // PATCH, picture.shape[2] // PATCH, mask.shape[1]
        time = self._time(timestep)

        tokens = net.all_x_embedder[_KEY](_patches(picture, rows, columns))
        turns = self._turns(picture_places(rows, columns, length))
        for block in net.noise_refiner:
            tokens = _block(block, tokens, turns, None, time)

        used = _used(mask)
        text = _filled(net.cap_embedder(encoder_hidden_states), mask.unsqueeze(2), net.cap_pad_token)
        text_turns = self._turns(text_places(length))
        for block in net.context_refiner:
            text = _block(block, text, text_turns, _biases(used, net.n_heads), None)

        biases = _biases(torch.cat([torch.ones_like(tokens[:, :, 0]), used], dim=1), net.n_heads)
        both = (torch.cat([turns[0], text_turns[0]], dim=1), torch.cat([turns[1], text_turns[1]], dim=1))
        stream = torch.cat([tokens, text], dim=1)
        for block in net.layers:
            stream = _block(block, stream, both, biases, time)

        last = net.all_final_layer[_KEY]
        scale = 1.0 + last.adaLN_modulation(time).unsqueeze(1)
        patches = last.linear(last.norm_final(stream[:, : rows * columns]) * scale)
        return self._picture(-patches, rows, columns)

    def _time(self, timestep: Tensor) -> Tensor:
        """Returns what modulates the blocks, [B, D]; the network's time is 1000 at the picture."""
        embedder = self.component.t_embedder
        half = embedder.frequency_embedding_size // 2
        frequencies = torch.exp(-math.log(_LONGEST_PERIOD) * torch.arange(half, dtype=torch.float32) / half)
        phases = (1000 - timestep)[:, None] * frequencies[None]
        time = embedder.mlp(torch.cat([phases.cos(), phases.sin()], dim=-1))
        # Changes nothing; without it, the converter of Android's files moves the bias into those of every block.
        return time.clamp(-_LARGEST, _LARGEST)

    def _turns(self, places: Any) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines of tokens at these places for every pair of features, twice each, [1, N, 1, d]."""
        turns = angles(places, self.component.axes_dims, self.component.rope_theta)
        cosines, sines = (torch.from_numpy(np.repeat(part, 2, axis=1)[None, :, None]) for part in turns)
        return cosines, sines

    def _picture(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """Returns patches [B, rows·columns, p·p·C], put together by moves of four axes."""
        lines = patches.reshape(-1, columns, PATCH, patches.shape[2] // PATCH).permute(0, 2, 1, 3)
        picture = lines.reshape(-1, rows * PATCH, columns * PATCH, patches.shape[2] // PATCH**2)
        return picture if self.channels_last else picture.permute(0, 3, 1, 2)


def _patches(picture: Tensor, rows: int, columns: int) -> Tensor:
    """Returns the patches of a picture [B, H, W, C], each as its rows one after the other, [B, N, p·p·C]."""
    channels = picture.shape[3]
    lines = picture.reshape(-1, PATCH, columns, PATCH * channels).permute(0, 2, 1, 3)
    return lines.reshape(-1, rows * columns, PATCH * PATCH * channels)


def _used(mask: Tensor) -> Tensor:
    """Returns 1 for the rows of the blocks of 32 that a text takes, else 0, [B, L]; such a block begins with a 1."""
    blocks = mask.shape[1] // BLOCK
    spread = np.repeat(np.eye(blocks, dtype=np.float32), BLOCK, axis=0)
    return linear(mask.unflatten(1, (blocks, BLOCK))[:, :, 0], torch.from_numpy(spread))


def _filled(features: Tensor, mask: Tensor, padding: Tensor) -> Tensor:
    """Returns features where the mask [B, L, 1] is 1, the padding [1, D] where it is 0."""
    return features * mask + padding.unsqueeze(0) * (1 - mask)


def _biases(used: Tensor, heads: int) -> Tensor:
    """Returns what is added to the scores of keys, [1, 1 or B·heads, 1, N], for 1 or 0 of each."""
    biases = ((1 - used) * MASKED).unsqueeze(1).unsqueeze(1)
    return biases if len(used) == 1 else torch.cat([biases] * heads, dim=1).reshape(1, -1, 1, used.shape[1])


def _block(block: Any, tokens: Tensor, turns: Turns, biases: Tensor | None, time: Tensor | None) -> Tensor:
    """Returns the tokens after a block, [B, N, D].

    Args:
        block: of the transformer.
        tokens: [B, N, D].
        turns: cosines and sines, [1, N, 1, d].
        biases: of `_biases`; None where every key counts.
        time: what modulates the block, [B, D']; None for one that time does not.
    """
    if time is None:
        tokens = tokens + block.attention_norm2(
            _attended(block.attention, block.attention_norm1(tokens), turns, biases)
        )
        return tokens + block.ffn_norm2(block.feed_forward(block.ffn_norm1(tokens)))
    scale, gate, scale_mlp, gate_mlp = block.adaLN_modulation(time).unsqueeze(1).chunk(4, dim=2)
    normed = block.attention_norm1(tokens) * (1.0 + scale)
    tokens = tokens + gate.tanh() * block.attention_norm2(_attended(block.attention, normed, turns, biases))
    forward = block.feed_forward(block.ffn_norm1(tokens) * (1.0 + scale_mlp))
    return tokens + gate_mlp.tanh() * block.ffn_norm2(forward)


def _attended(attention: Any, tokens: Tensor, turns: Turns, biases: Tensor | None) -> Tensor:
    """Returns what tokens get from each other, [B, N, D]."""

    def heads(x: Tensor) -> Tensor:
        """Returns [1, B·heads, N, d] of [B, N, heads, d], or, where no key is masked, [B, heads, N, d]."""
        moved = x.transpose(1, 2)
        return moved if biases is None or len(x) == 1 else moved.flatten(0, 1).unsqueeze(0)

    query, key, value = (
        layer(tokens).unflatten(2, (attention.heads, -1)) for layer in (attention.to_q, attention.to_k, attention.to_v)
    )
    if attention.norm_q is not None:
        query, key = attention.norm_q(query), attention.norm_k(key)
    query, key = (_turned(x, turns) for x in (query, key))
    attended = scaled_dot_product_attention(heads(query), heads(key), heads(value), attn_mask=biases)
    if biases is not None and len(tokens) > 1:
        attended = attended.squeeze(0).unflatten(0, (len(tokens), -1))
    return attention.to_out[0](attended.transpose(1, 2).flatten(2))


def _turned(x: Tensor, turns: Turns) -> Tensor:
    """Returns queries or keys [B, N, heads, d] turned to their places, pair by pair of neighbours."""
    first, second = x.unflatten(3, (-1, 2)).unbind(-1)
    quarter = torch.stack([-second, first], dim=-1).flatten(3)
    return x * turns[0] + quarter * turns[1]
