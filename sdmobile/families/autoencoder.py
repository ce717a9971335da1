"""The KL autoencoder between pictures and latents (Rombach et al., arXiv 2112.10752), as decoder and image encoder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import tiny_autoencoder
from sdmobile.families.autoencoder_streams import streams_of
from sdmobile.families.component import Component, Config, FileNames, Kind, Model, Role, Shapes, Value
from sdmobile.families.original_names import Source, autoencoder_sources
from sdmobile.families.schedulers import finite_positive
from sdmobile.families.shapes import count_blocks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdmobile.families.streams import ArrayNetwork
    from sdmobile.formats.bundle.contracts import Geometry

PREFIX = "first_stage_model."
_LOSS = PREFIX + "loss."
_STATISTICS = ("latents_mean", "latents_std")
SCALING_FACTOR = 0.18215
"""Diffusers' default, which older checkpoints rely on."""


def _build(config: Config) -> nn.Module:
    if config.get("_class_name") == tiny_autoencoder.CLASS:
        return tiny_autoencoder.build(config)
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return cast("nn.Module", AutoencoderKL.from_config(config))


def _derive(shapes: Shapes) -> Config:
    if tiny_autoencoder.is_tiny(shapes):
        return tiny_autoencoder.derive(shapes)
    facts: Config = {}
    if (image := shapes.get("encoder.conv_in.weight")) and len(image) == 4:
        facts["in_channels"] = image[1]
    if (image := shapes.get("decoder.conv_out.weight")) and len(image) == 4:
        facts["out_channels"] = image[0]
    if (latent := shapes.get("decoder.conv_in.weight")) and len(latent) == 4:
        facts["latent_channels"] = latent[1]
    facts["use_quant_conv"] = "quant_conv.weight" in shapes
    facts["use_post_quant_conv"] = "post_quant_conv.weight" in shapes
    levels = count_blocks(shapes, "encoder.down_blocks.")
    widths = [shapes.get(f"encoder.down_blocks.{level}.resnets.0.conv1.weight", (0,))[0] for level in range(levels)]
    if levels and all(widths):
        facts["block_out_channels"] = widths
        facts["layers_per_block"] = count_blocks(shapes, "encoder.down_blocks.0.resnets.")
        facts["down_block_types"] = ["DownEncoderBlock2D"] * levels
        facts["up_block_types"] = ["UpDecoderBlock2D"] * levels
        facts["mid_block_add_attention"] = "decoder.mid_block.attentions.0.to_q.weight" in shapes
    return facts


def check_shifted(class_name: str, config: Config) -> None:
    """Refuses latents that are more than scaled and shifted."""
    _check(class_name, config, keys=_STATISTICS)


def _check(class_name: str, config: Config, keys: Sequence[str] = ("shift_factor", *_STATISTICS)) -> None:
    if class_name == tiny_autoencoder.CLASS:
        tiny_autoencoder.check(config)
        return
    for key in keys:
        if config.get(key) is not None:
            raise UnsupportedError(
                "the autoencoder must have latents that are only scaled",
                f"{class_name} with {key}: shifted latents (SD3, Flux)",
            )


def _sources(shapes: Shapes) -> Mapping[str, Source]:
    return autoencoder_sources((name for name in shapes if not name.startswith(_LOSS)), PREFIX)


def _spare(names: Sequence[str]) -> Mapping[str, str]:
    return {name: "part of the loss in training" for name in names if name.startswith(_LOSS)}


def _base_config(shapes: Shapes, names: Sequence[str]) -> Config:
    return {"norm_num_groups": 32, "scaling_factor": SCALING_FACTOR}


MODEL = Model(
    name="vae",
    classes=("AutoencoderKL", tiny_autoencoder.CLASS),
    build=_build,
    derive=_derive,
    check=_check,
    prefixes=(PREFIX,),
    sources=_sources,
    base_config=_base_config,
    spare=_spare,
)


def scale_factor(config: Config) -> int:
    """Returns the pixels per latent cell along one axis: every level but the last halves the picture."""
    levels = config.get(tiny_autoencoder.WIDTHS) or config.get("block_out_channels")
    if not isinstance(levels, list | tuple) or not levels:
        raise CheckpointError("the configuration of vae must say block_out_channels, or its tensors must", levels)
    return 2 ** (len(levels) - 1)


def scaling_factor(config: Config, notes: list[str]) -> float:
    """Returns the factor on latents; notes it where it is assumed.

    Raises:
        CheckpointError: what is stated is no finite number above zero.
    """
    factor = config.get("scaling_factor")
    if factor is None and tiny_autoencoder.WIDTHS in config:
        factor = tiny_autoencoder.SCALING_FACTOR
    if factor is not None:
        if not finite_positive(factor):
            raise CheckpointError("scaling_factor of the VAE must be a finite number above zero", factor)
        return float(factor)
    notes.append(f"vae: config does not say scaling_factor; {SCALING_FACTOR} assumed")
    return SCALING_FACTOR


def shift_factor(config: Config) -> float:
    """Returns what is added to latents after the division.

    Raises:
        CheckpointError: what is stated is no finite number.
    """
    shift = config.get("shift_factor") or 0.0
    if shift and not finite_positive(abs(shift) if isinstance(shift, int | float) else shift):
        raise CheckpointError("shift_factor of the VAE must be a finite number", shift)
    return float(shift)


def latent_shape(g: Geometry) -> tuple[int, int, int]:
    """Returns [C, h, w]."""
    return (g.latent_channels, g.latent_height, g.latent_width)


def _image_shape(g: Geometry) -> tuple[int, int, int, int]:
    return (1, 3, g.image_height, g.image_width)


def _wrap_decoder(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.wrappers import TinyDecoder, VaeDecoder

    if not hasattr(module, "post_quant_conv"):
        return TinyDecoder(module, channels_last)
    return VaeDecoder(module, channels_last)


def _wrap_encoder(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.wrappers import TinyEncoder, VaeEncoder

    if not hasattr(module, "quant_conv"):
        return TinyEncoder(module, channels_last)
    return VaeEncoder(module, channels_last)


def _decode(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    return module.decode(inputs["latent"], return_dict=False)[0]


def _encode(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    encoded = module.encode(inputs["image"])
    return encoded.latent_dist.parameters if hasattr(encoded, "latent_dist") else tiny_autoencoder.moments(encoded[0])


def _arrays(half: str) -> Callable[[Config, Collection[str]], ArrayNetwork | None]:
    def network(config: Config, names: Collection[str]) -> ArrayNetwork | None:
        from sdmobile.families.autoencoder_arrays import array_network  # with NumPy, when it is needed

        return array_network(half, config, names)

    return network


_IMAGE = Value("image", Kind.PIXELS, _image_shape, "Image, RGB in [-1, 1]")

DECODER = Component(
    name="vae_decoder",
    role=Role.DECODER,
    model=MODEL.name,
    summary="Image decoder: latents to a picture",
    inputs=(
        Value("latent", Kind.PIXELS, lambda g: (1, *latent_shape(g)), "Latents already divided by the scaling factor"),
    ),
    outputs=(_IMAGE,),
    files={
        "ios": FileNames("VAEDecoder.mlpackage", "main", ("z",), ("image",)),
        "android": FileNames("vae_decoder.tflite", "decode", ("latent",), ("image",)),
        "onnx": FileNames("vae_decoder.onnx", "main", ("latent",), ("image",)),
    },
    wrap=_wrap_decoder,
    reference=_decode,
    streams=streams_of,
    arrays=_arrays("decoder"),
)

ENCODER = Component(
    name="vae_encoder",
    role=Role.IMAGE_ENCODER,
    model=MODEL.name,
    summary="Image encoder: a picture to the distribution of its latents",
    inputs=(_IMAGE,),
    outputs=(
        Value(
            "moments",
            Kind.PIXELS,
            lambda g: (1, 2 * g.latent_channels, g.latent_height, g.latent_width),
            "Mean, then log-variance, of the latents; unscaled",
        ),
    ),
    files={
        "ios": FileNames("VAEEncoder.mlpackage", "main", ("x",), ("latent_dist",)),
        "android": FileNames("vae_encoder.tflite", "encode_image", ("image",), ("moments",)),
        "onnx": FileNames("vae_encoder.onnx", "main", ("image",), ("moments",)),
    },
    wrap=_wrap_encoder,
    reference=_encode,
    streams=streams_of,
    arrays=_arrays("encoder"),
)
