"""SANA's transformer as a file has it: four axes at most, and every table beside what takes it.

Diffusers' own forward hands the last table to another module, whose name a file would then have for it, and puts the
patches together with six axes. This one runs the same modules.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sdmobile.families.pixart_transformer import picture_of
from sdmobile.families.wrappers import Wrapper

_MASKED = -10_000.0
"""What Diffusers adds to the scores of padding; float16 holds it."""


class SanaTransformer(Wrapper):
    """Latents, timestep (B,), text features (B, S, D), mask (B, S), guidance scale (B,) -> velocity, as latents lie."""

    component: Any

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, mask: Tensor, guidance: Tensor
    ) -> Tensor:
        if encoder_hidden_states.ndim == 4:  # (B, D, 1, S) of the Neural Engine
            encoder_hidden_states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        net = self.component
        latent, size = self.enter(sample), net.config.patch_size
        rows, columns = latent.shape[2] // size, latent.shape[3] // size
        tokens = net.patch_embed(latent)
        scale = guidance * net.config.guidance_embeds_scale
        modulation, embedded = net.time_embed(timestep, guidance=scale, hidden_dtype=tokens.dtype)
        text = net.caption_norm(net.caption_projection(encoder_hidden_states))
        bias = ((1 - mask) * _MASKED).unsqueeze(1)
        for block in net.transformer_blocks:
            tokens = block(tokens, None, text, bias, modulation, rows, columns)
        shift, gain = (net.scale_shift_table[None] + embedded.unsqueeze(1)).chunk(2, dim=1)
        patches = net.proj_out(net.norm_out.norm(tokens) * (1 + gain) + shift)
        return picture_of(patches, size, rows, columns, self.channels_last)
