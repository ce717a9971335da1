"""FLUX.2's transformer as a file has it: one size of picture, one length of text, and their places as constants.

Diffusers' own forward computes the places' cosines in float64, which LiteRT's converter refuses, and takes σ times 1000
inside, so that no rule knows the range of its sinusoid. This one runs the same blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdmobile.families.flux2 import picture_places, text_places, turns


class Flux2Transformer(nn.Module):
    """Latents, timestep (B,) and text features (B, L, D) -> velocity in the latents' layout.

    Args:
        component: a Flux2Transformer2DModel.
        channels_last: whether latents lie so in the file.
    """

    def __init__(self, component: Any, channels_last: bool) -> None:
        super().__init__()
        self.component = component
        self.channels_last = channels_last

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        if encoder_hidden_states.ndim == 4:  # (B, D, 1, L) of the Neural Engine
            encoder_hidden_states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        net = self.component
        picture = sample if self.channels_last else sample.permute(0, 2, 3, 1)
        rows, columns = picture.shape[1:3]
        length = encoder_hidden_states.shape[1]
        time = net.time_guidance_embed(timestep, None)
        at = self._turns(length, rows, columns)

        tokens = net.x_embedder(picture.flatten(1, 2))
        text = net.context_embedder(encoder_hidden_states)
        of_picture, of_text = net.double_stream_modulation_img(time), net.double_stream_modulation_txt(time)
        for block in net.transformer_blocks:
            text, tokens = block(tokens, text, of_picture, of_text, at)

        stream = torch.cat([text, tokens], dim=1)
        of_both = net.single_stream_modulation(time)
        for block in net.single_transformer_blocks:
            stream = block(stream, None, of_both, at)

        velocity = net.proj_out(net.norm_out(stream[:, length:], time)).unflatten(1, (rows, columns))
        return velocity if self.channels_last else velocity.permute(0, 3, 1, 2)

    def _turns(self, length: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines of the places of a text and of a picture behind it, [L + N, d] each."""
        places = np.concatenate([text_places(length), picture_places(rows, columns)])
        own = self.component.pos_embed
        cosines, sines = turns(places, own.axes_dim, own.theta)
        return torch.from_numpy(cosines), torch.from_numpy(sines)
