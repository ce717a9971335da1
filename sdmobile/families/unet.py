"""The conditional UNet of latent diffusion: Rombach et al., arXiv 2112.10752."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from sdmobile.errors import UnsupportedError
from sdmobile.families.autoencoder import latent_shape
from sdmobile.families.clip import HEAD_CHANNELS
from sdmobile.families.component import Component, Config, FileNames, Kind, Model, Role, Shapes, Value
from sdmobile.families.original_names import Source, unet_sources
from sdmobile.families.relu_attention import KEY, declared_normaliser, use_relu_attention
from sdmobile.families.shapes import channels, count_blocks

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = "model.diffusion_model."
# Stable Diffusion 1.x has 8 heads at every level; Diffusers calls that number attention_head_dim.
_SD1_HEADS = 8
_FIRST_CONV = r"down_blocks\.\d+\.resnets\.0\.conv1\.weight"

# Options that add inputs or change blocks, and the value that means "absent".
_OPTIONS: dict[str, tuple[Any, str]] = {
    "addition_embed_type": (None, "additional embeddings (SDXL, Kandinsky)"),
    "class_embed_type": (None, "class embeddings"),
    "num_class_embeds": (None, "class embeddings"),
    "encoder_hid_dim": (None, "a projection of the text features (Kandinsky, DeepFloyd IF)"),
    "encoder_hid_dim_type": (None, "a projection of the text features (Kandinsky, DeepFloyd IF)"),
    "time_cond_proj_dim": (None, "guidance embedding (latent consistency models)"),
    "dual_cross_attention": (False, "dual cross-attention (Versatile Diffusion)"),
    "attention_type": ("default", "gated attention (GLIGEN)"),
}


def build(config: Config) -> nn.Module:
    """Makes the module of a configuration, with ReLU attention where it is declared."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    normaliser = declared_normaliser(config)
    unet = UNet2DConditionModel.from_config({key: value for key, value in config.items() if key != KEY})
    if normaliser is not None:
        use_relu_attention(cast("nn.Module", unet), normaliser)
    return cast("nn.Module", unet)


def derive(shapes: Shapes) -> Config:
    """Returns the configuration keys that shapes determine."""
    facts = channels(shapes, "conv_in.weight", "conv_out.weight")
    levels = count_blocks(shapes, "down_blocks.")
    widths = [shapes.get(f"down_blocks.{level}.resnets.0.conv1.weight", (0,))[0] for level in range(levels)]
    if not levels or not all(widths):
        return facts
    facts["block_out_channels"] = widths
    layers = [count_blocks(shapes, f"down_blocks.{level}.resnets.") for level in range(levels)]
    facts["layers_per_block"] = layers[0] if len(set(layers)) == 1 else layers
    attends = [f"down_blocks.{level}.attentions.0.norm.weight" in shapes for level in range(levels)]
    facts["down_block_types"] = ["CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends]
    attends = [f"up_blocks.{level}.attentions.0.norm.weight" in shapes for level in range(levels)]
    facts["up_block_types"] = ["CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in attends]
    contexts = {shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and shape}
    if len(contexts) == 1:
        facts["cross_attention_dim"] = contexts.pop()
    projections = {len(shape) for name, shape in shapes.items() if name.endswith(".proj_in.weight")}
    if len(projections) == 1:
        facts["use_linear_projection"] = projections.pop() == 2
    return facts


def check(class_name: str, config: Config, taken: Collection[str] = ()) -> None:
    """Refuses options that add inputs or change blocks, but those that the family takes.

    Raises:
        UnsupportedError: naming the option and its value.
    """
    for key, (absent, meaning) in _OPTIONS.items():
        if key not in taken and config.get(key, absent) != absent:
            raise UnsupportedError(
                "the architecture must be one that sdmobile exports",
                f"{class_name} with {key} = {config[key]}: {meaning}",
                "Supported are UNets of Stable Diffusion 1.x, 2.x and XL.",
            )


def _sources(shapes: Shapes) -> Mapping[str, Source]:
    return unet_sources(shapes, PREFIX)


def _base_config(shapes: Shapes, names: Sequence[str]) -> Config:
    widths = [shape[0] for name, shape in sorted(shapes.items()) if re.fullmatch(_FIRST_CONV, name)]
    linear = any(name.endswith(".proj_in.weight") and len(shape) == 2 for name, shape in shapes.items())
    heads = [max(1, width // HEAD_CHANNELS) for width in widths] if linear else _SD1_HEADS
    return {"attention_head_dim": heads, "norm_num_groups": 32}


MODEL = Model(
    name="unet",
    classes=("UNet2DConditionModel",),
    build=build,
    derive=derive,
    check=check,
    prefixes=(PREFIX,),
    sources=_sources,
    base_config=_base_config,
)


def latent_size(unet: Config, vae: Config, scale: int, notes: list[str]) -> tuple[int, int]:
    """Returns h and w in latent cells that a UNet was trained on; notes it where they are assumed."""
    size = unet.get("sample_size")
    height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        return height, width
    image = vae.get("sample_size")
    guess = image // scale if isinstance(image, int) and image >= scale else 64
    notes.append(f"unet: config does not say sample_size; {guess} latent cells ({guess * scale} pixels) assumed")
    return guess, guess


def _wrap(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.wrappers import UNet

    return UNet(module, channels_last)


def _reference(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    return module(inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"], return_dict=False)[0]


INPUTS = ("sample", "timestep", "encoder_hidden_states")

UNET = Component(
    name="unet",
    role=Role.DENOISER,
    model=MODEL.name,
    summary="Denoiser: noisy latents, timestep and text features to a prediction",
    inputs=(
        Value("sample", Kind.PIXELS, lambda g: (g.batch, *latent_shape(g)), "Noisy latents, {rows}"),
        Value(
            "timestep",
            Kind.TIMESTEPS,
            lambda g: (g.batch,),
            "Timestep of the training schedule, the same in every row",
        ),
        Value(
            "encoder_hidden_states",
            Kind.CONTEXT,
            lambda g: (g.batch, g.context_length, g.context_dim),
            "Text features, {rows}",
        ),
    ),
    outputs=(
        Value(
            "noise_pred", Kind.PIXELS, lambda g: (g.batch, *latent_shape(g)), "Prediction for each row, before guidance"
        ),
    ),
    files={
        "ios": FileNames("Unet.mlpackage", "main", INPUTS, ("noise_pred",)),
        "android": FileNames("unet.tflite", "denoise", INPUTS, ("noise_pred",)),
        "onnx": FileNames("unet.onnx", "main", INPUTS, ("noise_pred",)),
    },
    wrap=_wrap,
    reference=_reference,
)
