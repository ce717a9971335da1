"""The transformer of Stable Diffusion 3: picture and text are two rows of tokens that attend to each other.

    v = MMDiT(x_σ, 1000·σ, c, p)        c: features of the texts' tokens, p: what both texts are as a whole

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", arXiv 2403.03206, section 4;
3.5 normalises queries and keys, and its medium size attends to the picture a second time in the first layers.

c has the rows of CLIP, then those of T5. Without T5 these are zeros, as many as Diffusers' pipeline has then. An app
gives as many of them as of CLIP's, which is what Apple's Swift package does; the file adds the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.autoencoder import latent_shape
from sdmobile.families.clip_pooled import POOLED
from sdmobile.families.component import Component, Config, FileNames, Kind, Model, Role, Shapes, Value
from sdmobile.families.shapes import count_blocks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdmobile.formats.bundle.contracts import Geometry

POOLED_TEXT = "pooled_projections"
T5_ROWS = 256
"""Rows of T5 that Diffusers' pipeline has where nothing else is said (`max_sequence_length`)."""
USUAL_SIZE = 128
"""Latent cells along one side where a configuration does not say it: the default of Diffusers' class."""
_BLOCKS = "transformer_blocks."
_NORMS = (None, "rms_norm")


def text_rows(tokens: int) -> int:
    """Returns the rows of text that the denoiser is given: CLIP's, and as many zeros in T5's place.

    Args:
        tokens: of a text, for CLIP.
    """
    return 2 * tokens


def pooled_width(g: Geometry) -> int:
    """Returns the features of both texts as a whole."""
    return sum(g.size(name) for name in POOLED.values())


def with_idle_rows(context: Tensor) -> Tensor:
    """Returns the features of a text with zeros for the rows of T5 that were not given, [B, L + 256, D].

    Args:
        context: [B, 2·L, D], whose last L rows are zeros.
    """
    from torch.nn.functional import pad

    # As (B, 1, S, D): an Android GPU pads other axes where there are three.
    return pad(context.unsqueeze(1), (0, 0, 0, T5_ROWS - context.shape[1] // 2)).squeeze(1)


def patch_size(config: Config) -> int:
    """Returns the latent cells of a token along one side.

    Raises:
        CheckpointError: it is none.
    """
    size = config.get("patch_size", 2)
    if type(size) is not int or not 1 <= size <= 64:
        raise CheckpointError("patch_size of the transformer must be a number of latent cells from 1 to 64", size)
    return size


def _build(config: Config) -> nn.Module:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    return cast("nn.Module", SD3Transformer2DModel.from_config(config))


def _derive(shapes: Shapes) -> Config:
    facts: Config = {}
    layers = count_blocks(shapes, _BLOCKS)
    if layers:
        facts["num_layers"] = layers
        facts["qk_norm"] = "rms_norm" if f"{_BLOCKS}0.attn.norm_q.weight" in shapes else None
        twice = [layer for layer in range(layers) if f"{_BLOCKS}{layer}.attn2.to_q.weight" in shapes]
        facts["dual_attention_layers"] = twice
    if (patches := shapes.get("pos_embed.proj.weight")) and len(patches) == 4:
        facts |= {"in_channels": patches[1], "patch_size": patches[2]}
    if (text := shapes.get("context_embedder.weight")) and len(text) == 2:
        facts |= {"caption_projection_dim": text[0], "joint_attention_dim": text[1]}
    if (pooled := shapes.get("time_text_embed.text_embedder.linear_1.weight")) and len(pooled) == 2:
        facts["pooled_projection_dim"] = pooled[1]
    if (places := shapes.get("pos_embed.pos_embed")) and len(places) == 3:
        facts["pos_embed_max_size"] = math.isqrt(places[1])
    return facts


def _check(class_name: str, config: Config) -> None:
    if config.get("qk_norm") not in _NORMS:
        raise UnsupportedError(
            "queries and keys of the transformer must be as they are, or of RMSNorm", f"qk_norm = {config['qk_norm']}"
        )


def _wrap(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.wrappers import MultiModalTransformer

    return MultiModalTransformer(module, channels_last, with_idle_rows)


def _reference(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    text = with_idle_rows(inputs["encoder_hidden_states"])
    return module(inputs["sample"], text, inputs[POOLED_TEXT], inputs["timestep"], return_dict=False)[0]


MODEL = Model(
    name="transformer",
    classes=("SD3Transformer2DModel",),
    build=_build,
    derive=_derive,
    check=_check,
)
_INPUTS = ("sample", "timestep", "encoder_hidden_states", POOLED_TEXT)
# What MultiModalDiffusionTransformer.swift of Apple's package looks up.
_APPLE = ("latent_image_embeddings", "timestep", "token_level_text_embeddings", "pooled_text_embeddings")
TRANSFORMER = Component(
    name="transformer",
    role=Role.DENOISER,
    model=MODEL.name,
    summary="Denoiser: noisy latents, timestep, text features and pooled texts to a velocity",
    inputs=(
        Value("sample", Kind.PIXELS, lambda g: (g.batch, *latent_shape(g)), "Noisy latents, {rows}"),
        Value("timestep", Kind.TIMESTEPS, lambda g: (g.batch,), "1000 times the noise level, the same in every row"),
        Value(
            "encoder_hidden_states",
            Kind.CONTEXT,
            lambda g: (g.batch, text_rows(g.context_length), g.context_dim),
            "Text features of CLIP with zeros behind them and as many tokens of zeros, {rows}",
        ),
        Value(
            POOLED_TEXT,
            Kind.COLUMN,
            lambda g: (g.batch, pooled_width(g)),
            "Pooled text features of both encoders, joined, {rows}",
        ),
    ),
    outputs=(
        Value(
            "noise_pred", Kind.PIXELS, lambda g: (g.batch, *latent_shape(g)), "Velocity for each row, before guidance"
        ),
    ),
    files={
        "ios": FileNames("MultiModalDiffusionTransformer.mlpackage", "main", _APPLE, ("noise_pred",)),
        "android": FileNames("transformer.tflite", "denoise", _INPUTS, ("noise_pred",)),
        "onnx": FileNames("transformer.onnx", "main", _INPUTS, ("noise_pred",)),
    },
    wrap=_wrap,
    reference=_reference,
)
