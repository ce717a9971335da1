"""PixArt's transformer as a file has it: four axes at most, and a text's mask that is made by arithmetic.

Diffusers' own forward repeats the mask for every head, and puts the patches together with six axes; an Android GPU does
neither. This one runs the same modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sdmobile.families.pixart import position_table
from sdmobile.families.t5_encoder import MASKED


class PixArtTransformer(nn.Module):
    """Latents, timestep (B,), text features (B, S, D) and mask (B, S) -> prediction in the latents' layout.

    Args:
        component: a PixArtTransformer2DModel.
        channels_last: whether latents lie so in the file.
    """

    def __init__(self, component: Any, channels_last: bool) -> None:
        super().__init__()
        self.component = component
        self.channels_last = channels_last

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, mask: Tensor) -> Tensor:
        if encoder_hidden_states.ndim == 4:  # (B, D, 1, S) of the Neural Engine
            encoder_hidden_states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        net = self.component
        latent = sample.permute(0, 3, 1, 2) if self.channels_last else sample
        size = net.config.patch_size
        rows, columns = latent.shape[2] // size, latent.shape[3] // size
        tokens = net.pos_embed.proj(latent).flatten(2).transpose(1, 2) + self._places(rows, columns)
        modulation, embedded = net.adaln_single(timestep, None, hidden_dtype=tokens.dtype)
        modulation = modulation.unflatten(1, (6, -1))
        # What is masked counts nothing, so that zeros there change nothing; without a product here the converter of
        # Android's files moves the bias of the projection into those of every key and value.
        text = net.caption_projection(encoder_hidden_states) * mask.unsqueeze(2)
        bias = _biases(mask, net.config.num_attention_heads)
        for block in net.transformer_blocks:
            tokens = _block(block, tokens, modulation, text, bias)
        shift, scale = (net.scale_shift_table[None] + embedded.unsqueeze(1)).chunk(2, dim=1)
        patches = net.proj_out(net.norm_out(tokens) * (1 + scale) + shift)
        picture = picture_of(patches, size, rows, columns, self.channels_last)
        channels = latent.shape[1]  # the rest is the logarithm of a variance
        return picture[..., :channels] if self.channels_last else picture[:, :channels]

    def _places(self, rows: int, columns: int) -> Tensor:
        """Returns what is added to tokens for their places; a constant for other sizes than the checkpoint's own."""
        own = self.component.pos_embed
        if (rows, columns) == (own.height, own.width):
            return own.pos_embed
        width = own.pos_embed.shape[2]
        return torch.from_numpy(position_table(width, rows, columns, own.base_size, own.interpolation_scale))


def picture_of(patches: Tensor, size: int, rows: int, columns: int, channels_last: bool) -> Tensor:
    """Returns patches as a picture in the file's layout, put together by moves of four axes.

    Args:
        patches: [B, rows·columns, size·size·C].
        size: of a patch along one side.
        rows, columns: of patches.
        channels_last: the layout, [B, h, w, C] instead of [B, C, h, w].
    """
    channels = patches.shape[2] // (size * size)
    lines = patches.reshape(-1, columns, size, size * channels).permute(0, 2, 1, 3)
    picture = lines.reshape(-1, rows * size, columns * size, channels)
    return picture if channels_last else picture.permute(0, 3, 1, 2)


def _biases(mask: Tensor, heads: int) -> Tensor:
    """Returns what is added to the scores of a text's tokens, [1, 1 or B·heads, 1, S].

    Google's engine for the GPU gives all rows of a batch the first one's mask where attention is one operator (32.6 dB
    with two rows, 143.6 dB with one), so that rows become heads.

    Args:
        mask: 1 for a token, 0 for padding, [B, S].
        heads: of the attention.
    """
    biases = ((1 - mask) * MASKED).unsqueeze(1).unsqueeze(1)
    return biases if len(mask) == 1 else torch.cat([biases] * heads, dim=1).reshape(1, -1, 1, mask.shape[1])


def _block(block: Any, tokens: Tensor, modulation: Tensor, text: Tensor, bias: Tensor) -> Tensor:
    """Returns the tokens after a block, [B, N, D].

    Args:
        block: of the transformer.
        tokens: of the picture, [B, N, D].
        modulation: of the timestep, [B, 6, D].
        text: features of its tokens, [B, S, D].
        bias: of `_biases`.
    """
    table = (block.scale_shift_table[None] + modulation).chunk(6, dim=1)
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = table
    tokens = tokens + gate * block.attn1(block.norm1(tokens) * (1 + scale) + shift)
    tokens = tokens + _attended(block.attn2, tokens, text, bias)
    return tokens + gate_mlp * block.ff(block.norm2(tokens) * (1 + scale_mlp) + shift_mlp)


def _attended(attention: Any, tokens: Tensor, text: Tensor, bias: Tensor) -> Tensor:
    """Returns what the picture's tokens get from the text's that are not masked, [B, N, D]."""

    def heads(x: Tensor) -> Tensor:
        """Returns [1, B·heads, N, d] of [B, N, D]."""
        return x.unflatten(2, (attention.heads, -1)).transpose(1, 2).flatten(0, 1).unsqueeze(0)

    query, key, value = heads(attention.to_q(tokens)), heads(attention.to_k(text)), heads(attention.to_v(text))
    attended = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=attention.scale)
    rows = attended.squeeze(0).unflatten(0, (len(tokens), -1)).transpose(1, 2)
    return attention.to_out[0](rows.flatten(2))
