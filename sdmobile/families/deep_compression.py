"""DC-AE, an autoencoder of 32×32 pixels per latent cell, as decoder and image encoder.

    y = shuffle(C(x)) + shuffle(repeat(x)),  y = unshuffle(C(x)) + mean of groups(unshuffle(x))        up, and down

Chen et al., "Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models", arXiv 2410.10733. Between
the levels are residual blocks, and in the coarser ones EfficientViT's: linear attention over two scales. Latents are no
distribution. The encoder's shortcuts, a mean over an axis of its own, are convolutions here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import autoencoder
from sdmobile.families.component import Config, Model, Shapes
from sdmobile.families.schedulers import finite_positive
from sdmobile.families.shapes import count_blocks
from sdmobile.families.streams import Streams
from sdmobile.families.tiny_autoencoder import moments

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASS = "AutoencoderDC"
_WIDTHS = "encoder_block_out_channels"
_BLOCKS = ("ResBlock", "EfficientViTBlock")
_NORM = "rms_norm"


def _build(config: Config) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC

    return cast("nn.Module", AutoencoderDC.from_config(config))


def _derive(shapes: Shapes) -> Config:
    facts: Config = {}
    if (latent := shapes.get("decoder.conv_in.weight")) and len(latent) == 4:
        facts["latent_channels"] = latent[1]
    return facts | _half(shapes, "encoder", "down") | _half(shapes, "decoder", "up")


def _half(shapes: Shapes, half: str, way: str) -> Config:
    """Returns what the blocks of the encoder or the decoder are, level by level; nothing where one has none.

    Every level but the last one, the coarsest, has one block more, by which the decoder's begin and the encoder's end.
    """
    levels = count_blocks(shapes, f"{half}.{way}_blocks.")
    kinds: list[str] = []
    widths: list[int] = []
    layers: list[int] = []
    scales: list[list[int]] = []
    for level in range(levels):
        between = int(level < levels - 1)
        stage = f"{half}.{way}_blocks.{level}."
        block = f"{stage}{between if half == 'decoder' else 0}."
        residual, attended = shapes.get(f"{block}conv1.weight"), shapes.get(f"{block}attn.to_out.weight")
        width = residual or attended
        if width is None:
            return {}
        kinds.append(_BLOCKS[0] if residual else _BLOCKS[1])
        widths.append(width[0])
        layers.append(count_blocks(shapes, stage) - between)
        scaled = f"{block}attn.to_qkv_multiscale."
        kernels = [shapes.get(f"{scaled}{place}.proj_in.weight") for place in range(count_blocks(shapes, scaled))]
        scales.append([kernel[-1] for kernel in kernels if kernel])
    names = ("block_types", "block_out_channels", "layers_per_block", "qkv_multiscales")
    return {f"{half}_{name}": values for name, values in zip(names, (kinds, widths, layers, scales), strict=True)}


def _check(class_name: str, config: Config) -> None:
    for side in ("encoder", "decoder"):
        _check_kinds(class_name, f"{side}_block_types", config.get(f"{side}_block_types", _BLOCKS[0]), _BLOCKS)
    _check_kinds(class_name, "decoder_norm_types", config.get("decoder_norm_types", _NORM), (_NORM,))


def _check_kinds(class_name: str, key: str, stated: object, known: Sequence[str]) -> None:
    """Raises UnsupportedError unless a setting of all levels, or of each, is a known one."""
    kinds = stated if isinstance(stated, list | tuple) else [stated]
    for kind in kinds:
        if kind not in known:
            raise UnsupportedError(f"{key} of {class_name} must be {' or '.join(known)}", kind)


MODEL = Model(
    name="vae",
    classes=(CLASS,),
    build=_build,
    derive=_derive,
    check=_check,
)


def scale_factor(config: Config) -> int:
    """Returns the pixels per latent cell along one axis: every level but the last halves the picture.

    Raises:
        CheckpointError: the configuration does not say its levels.
    """
    widths = config.get(_WIDTHS)
    if not isinstance(widths, list) or not 1 <= len(widths) <= 12:
        raise CheckpointError(f"the configuration of an {CLASS} must say {_WIDTHS}, one number a level", widths)
    return 2 ** (len(widths) - 1)


def scaling_factor(config: Config) -> float:
    """Returns the factor on latents, 1 where it is not said, as Diffusers has it.

    Raises:
        CheckpointError: what is stated is no finite number above zero.
    """
    factor = config.get("scaling_factor", 1.0)
    if not finite_positive(factor):
        raise CheckpointError("scaling_factor of the VAE must be a finite number above zero", factor)
    return float(factor)


def _wrap_decoder(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.deep_compression_wrappers import DeepDecoder

    return DeepDecoder(module, channels_last)


def _wrap_encoder(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.deep_compression_wrappers import DeepEncoder

    return DeepEncoder(module, channels_last)


def _encode(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    return moments(module.encode(inputs["image"], return_dict=False)[0])


DECODER = dataclasses.replace(
    autoencoder.DECODER, wrap=_wrap_decoder, streams=lambda module: Streams(), arrays=lambda config, names: None
)
ENCODER = dataclasses.replace(
    autoencoder.ENCODER,
    wrap=_wrap_encoder,
    reference=_encode,
    streams=lambda module: Streams(),
    arrays=lambda config, names: None,
)
