"""SANA's transformer: linear attention among a picture's tokens, attention to a text, feed-forward by convolutions.

    s, b, g, s', b', g' = table_i + W·t̄                          t̄ of timestep and guidance scale, table_i of the block
    x = x + g·linear(n(x)·(1 + s) + b),  x = x + attention(x, text, mask),  x = x + g'·GLU(n(x)·(1 + s') + b')
    linear = (Σⱼ vⱼ·relu(kⱼ)ᵀ)·relu(q) / Σⱼ relu(kⱼ)ᵀ·relu(q)

GLU are 1×1, depthwise 3×3 and 1×1 convolutions, by which a token sees its neighbours; nothing else tells it its place.
Xie et al., "SANA", arXiv 2410.10629; SANA-Sprint (arXiv 2503.09641) adds a norm of queries and keys, and the embedding
of the guidance scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from sdmobile.errors import UnsupportedError
from sdmobile.families.component import Config, Kind, Model, Shapes, Value
from sdmobile.families.sana_text import ROWS
from sdmobile.families.schedulers import finite_positive
from sdmobile.families.shapes import count_blocks
from sdmobile.families.transformer_components import patch_denoiser, text_context

if TYPE_CHECKING:
    from torch import Tensor, nn

MASK = "encoder_attention_mask"
GUIDANCE = "guidance"
_BLOCKS = "transformer_blocks."
_NORM = "rms_norm_across_heads"
_RULE = "the transformer must be that of SANA-Sprint"
# What the file has inputs for, and what other values would mean.
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "guidance_embeds": ((True,), "no embedding of the guidance scale (SANA)"),
    "interpolation_scale": ((None,), "a table of places (SANA for 4096 pixels)"),
    "qk_norm": ((None, _NORM), "another norm of queries and keys"),
}
HEADS = (
    ("num_attention_heads", "attention_head_dim"),
    ("num_cross_attention_heads", "cross_attention_head_dim"),
)
"""Number and width of the heads of both kinds of attention, as configurations say them."""


def _build(config: Config) -> nn.Module:
    from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel

    return cast("nn.Module", SanaTransformer2DModel.from_config(config))


def _derive(shapes: Shapes) -> Config:
    facts: Config = {"guidance_embeds": "time_embed.guidance_embedder.linear_1.weight" in shapes}
    facts["qk_norm"] = _NORM if f"{_BLOCKS}0.attn1.norm_q.weight" in shapes else None
    if layers := count_blocks(shapes, _BLOCKS):
        facts["num_layers"] = layers
    if (patches := shapes.get("patch_embed.proj.weight")) and len(patches) == 4:
        facts |= {"in_channels": patches[1], "patch_size": patches[2]}
        if (last := shapes.get("proj_out.weight")) and patches[2]:
            facts["out_channels"] = last[0] // patches[2] ** 2
    if (text := shapes.get("caption_projection.linear_1.weight")) and len(text) == 2:
        facts |= {"cross_attention_dim": text[0], "caption_channels": text[1]}
    return facts


def check(config: Config) -> None:
    """Refuses options that change inputs or blocks.

    Raises:
        UnsupportedError: naming the option and its value.
    """
    for key, (known, meaning) in _FIXED.items():
        if config.get(key) not in known:
            raise UnsupportedError(_RULE, f"{key} = {config.get(key)}: {meaning}")
    for key in ("caption_channels", "in_channels"):
        if type(config.get(key)) is not int:
            raise UnsupportedError(f"the configuration of the transformer must say {key}", config.get(key))
    if not finite_positive(scale := config.get("guidance_embeds_scale", 0.1)):
        raise UnsupportedError("guidance_embeds_scale of the transformer must be a finite number above zero", scale)


def _wrap(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.sana_transformer import SanaTransformer

    return SanaTransformer(module, channels_last)


def _reference(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    return module(
        inputs["sample"],
        encoder_hidden_states=inputs["encoder_hidden_states"],
        timestep=inputs["timestep"],
        guidance=inputs[GUIDANCE] * module.config.guidance_embeds_scale,
        encoder_attention_mask=inputs[MASK],
        return_dict=False,
    )[0]


MODEL = Model(
    name="transformer",
    classes=("SanaTransformer2DModel",),
    build=_build,
    derive=_derive,
    check=lambda class_name, config: None,  # by `check`, when the tensors have corrected the configuration
)
TRANSFORMER = patch_denoiser(
    "noisy latents, timestep, text features, the text's mask and guidance scale to a velocity",
    "Share of noise in the latents, from 1 down to 0",
    (
        dataclasses.replace(text_context(), shape=lambda g: (g.batch, ROWS, g.context_dim)),
        Value(MASK, Kind.VECTOR, lambda g: (g.batch, ROWS), "1 for each token of the text, 0 for padding, {rows}"),
        Value(GUIDANCE, Kind.TIMESTEPS, lambda g: (g.batch,), "Guidance scale, as users give it"),
    ),
    "Velocity, noise minus picture",
    _wrap,
    _reference,
)
