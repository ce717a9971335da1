"""The UNet and the thin decoder of MobileDiffusion as parts of a family: Zhao et al., arXiv 2311.16567."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from sdmobile.errors import UnsupportedError
from sdmobile.families import autoencoder, unet
from sdmobile.families.component import Config, Model, Shapes
from sdmobile.families.original_names import Source
from sdmobile.families.shapes import channels, count_blocks
from sdmobile.models import NORMALISERS

if TYPE_CHECKING:
    from torch import nn

UNET_CLASS = "MobileUNet2DConditionModel"
VAE_CLASS = "MobileAutoencoderKL"
_RELU = "relu_attention"
_ENCODER = ("in_channels", "out_channels", "latent_channels", "block_out_channels", "layers_per_block")


def _build_unet(config: Config) -> nn.Module:
    from sdmobile.models.unet import MobileUNet2DConditionModel

    return cast("nn.Module", MobileUNet2DConditionModel.from_config(config))


def _build_vae(config: Config) -> nn.Module:
    from sdmobile.models.autoencoder import MobileAutoencoderKL

    return cast("nn.Module", MobileAutoencoderKL.from_config(config))


def _levels(shapes: Shapes, ways: str, count: int) -> tuple[list[int], list[int]]:
    """Returns residual blocks, and transformer blocks after each, per level, highest resolution first."""
    order = range(count) if ways == "down_blocks" else reversed(range(count))
    names = [f"{ways}.{place}" for place in order]
    residual = [count_blocks(shapes, f"{name}.resnets.") for name in names]
    return residual, [count_blocks(shapes, f"{name}.attentions.0.transformer_blocks.") for name in names]


def _derive_unet(shapes: Shapes) -> Config:
    facts: Config = dict(channels(shapes, "conv_in.weight", "conv_out.weight"))
    if count := count_blocks(shapes, "down_blocks."):
        facts["up_transformer_layers_per_block"] = _levels(shapes, "up_blocks", count)[1]
    return facts | derive_way_down(shapes)


def derive_way_down(shapes: Shapes) -> Config:
    """Returns what the shapes of the way down and the middle determine, which a ControlNet has too."""
    facts: Config = {}
    count = count_blocks(shapes, "down_blocks.")
    if not count:
        return facts
    residual, transformers = _levels(shapes, "down_blocks", count)
    facts["layers_per_block"] = residual
    facts["transformer_layers_per_block"] = transformers
    middle = count_blocks(shapes, "mid_block.attentions.0.transformer_blocks.")
    facts["mid_transformer_layers"] = middle if count_blocks(shapes, "mid_block.resnets.") else None
    blocks = [f"down_blocks.{level}.resnets.0" for level in range(count)]
    facts["separable"] = [f"{block}.conv2.depthwise.weight" in shapes for block in blocks]
    facts["block_out_channels"] = [shapes.get(f"{block}.norm2.weight", (0,))[0] for block in blocks]
    contexts = {shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and shape}
    if len(contexts) == 1:
        facts["cross_attention_dim"] = contexts.pop()
    selves = [name.removesuffix("to_k.weight") for name in shapes if name.endswith("attn1.to_k.weight")]
    if selves:
        facts["share_key_value"] = f"{selves[0]}to_v.weight" not in shapes
    return facts


def check_relu(class_name: str, config: Config) -> None:
    """Raises UnsupportedError where ReLU attention is declared in another way than by a normaliser per kind."""
    declared = config.get(_RELU) or {}
    if not isinstance(declared, Mapping) or set(declared) - {"self", "cross"}:
        raise UnsupportedError(f"{_RELU} of a {class_name} must name self or cross", declared)
    for kind, normaliser in declared.items():
        if normaliser not in (*NORMALISERS, "softmax"):
            raise UnsupportedError(f"{_RELU} must be one of {', '.join(NORMALISERS)}, softmax", f"{kind}: {normaliser}")


def _derive_vae(shapes: Shapes) -> Config:
    facts = {k: v for k, v in autoencoder.MODEL.derive(shapes).items() if k in _ENCODER}
    levels = count_blocks(shapes, "decoder.up_blocks.")
    if levels:
        blocks = [f"decoder.up_blocks.{level}.resnets" for level in reversed(range(levels))]
        facts["decoder_block_out_channels"] = [shapes.get(f"{block}.0.norm2.weight", (0,))[0] for block in blocks]
        facts["decoder_layers_per_block"] = count_blocks(shapes, f"{blocks[0]}.")
        attends = "decoder.mid_block.attentions.0.to_q.weight" in shapes
        has_middle = count_blocks(shapes, "decoder.mid_block.resnets.")
        facts["decoder_mid_block"] = ("attention" if attends else "resnets") if has_middle else None
    return facts


def no_sources(shapes: Shapes) -> Mapping[str, Source]:
    """Raises UnsupportedError: there are no single files to find weights in."""
    raise UnsupportedError("MobileDiffusion has no layout in one file", f"{len(shapes)} tensors", "Give its folder")


def no_base_config(shapes: Shapes, names: Sequence[str]) -> Config:
    """Returns nothing: there are no single files."""
    return {}


UNET = Model(
    name=unet.MODEL.name,
    classes=(UNET_CLASS,),
    build=_build_unet,
    derive=_derive_unet,
    check=check_relu,
    prefixes=unet.MODEL.prefixes,
    sources=no_sources,
    base_config=no_base_config,
)
VAE = dataclasses.replace(
    autoencoder.MODEL, classes=(VAE_CLASS,), build=_build_vae, derive=_derive_vae, sources=no_sources
)
