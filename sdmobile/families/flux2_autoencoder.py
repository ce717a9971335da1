"""The autoencoder of FLUX.2: a KL autoencoder of 32 channels, four cells of whose latents are one cell of 128.

    x = (pack(mean) − μ)/√(v + ε)        z = unpack(x·√(v + ε) + μ)        μ, v: stored with its weights

Black Forest Labs, FLUX.2 (2025), as Diffusers' AutoencoderKLFlux2 and the pipelines around it have it. Both files take
and return packed, normalised latents, those that are sampled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, cast

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import autoencoder
from sdmobile.families.component import Config, FileNames, Kind, Model, Value
from sdmobile.families.streams import ArrayNetwork

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdmobile.families.array_layers import Array
    from sdmobile.families.streams import Observed

PACKED = 2
"""Cells along one side that become one."""
USUAL_PIXELS = 1024
"""Along one side of a picture, by Diffusers' pipeline."""
_EPSILON = 1e-4
_MEAN, _VARIANCE = "bn.running_mean", "bn.running_var"


def scale_factor(config: Config) -> int:
    """Returns the pixels per packed cell along one axis."""
    return PACKED * autoencoder.scale_factor(config)


def usual_size(config: Config, notes: list[str]) -> int:
    """Returns the packed cells along one side that a configuration asks for; notes it where they are assumed.

    Raises:
        CheckpointError: they are not whole cells.
    """
    pixels, scale = config.get("sample_size"), scale_factor(config)
    if pixels is None:
        notes.append(f"vae: config does not say sample_size; {USUAL_PIXELS} pixels assumed")
        pixels = USUAL_PIXELS
    if type(pixels) is not int or pixels <= 0 or pixels % scale:
        raise CheckpointError(f"sample_size of the VAE must be a positive multiple of {scale} pixels", pixels)
    return pixels // scale


def _build(config: Config) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2

    from sdmobile.families.flux2_latents import Statistics

    module: Any = AutoencoderKLFlux2.from_config(config)
    module.bn = Statistics(module.bn.num_features, module.bn.eps)
    return cast("nn.Module", module)


def _check(class_name: str, config: Config) -> None:
    size = config.get("patch_size", (PACKED, PACKED))
    if not isinstance(size, list | tuple) or [*size] != [PACKED, PACKED]:
        raise UnsupportedError("four cells of a latent must be one", f"patch_size = {size}")


MODEL = Model(
    name=autoencoder.MODEL.name,
    classes=("AutoencoderKLFlux2",),
    build=_build,
    derive=autoencoder.MODEL.derive,
    check=_check,
    unused=("bn.num_batches_tracked",),
)


def _wrap_decoder(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.flux2_latents import PackedDecoder

    return PackedDecoder(module, channels_last)


def _wrap_encoder(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.flux2_latents import PackedEncoder

    return PackedEncoder(module, channels_last)


def _statistics(module: Any) -> tuple[Tensor, Tensor]:
    """Returns μ and √(v + ε), [1, 4·C, 1, 1] each."""
    mean, deviation = module.bn()
    return mean.view(1, -1, 1, 1), deviation.view(1, -1, 1, 1)


def _decode(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    from torch.nn.functional import pixel_shuffle

    mean, deviation = _statistics(module)
    return module.decode(pixel_shuffle(inputs["latent"] * deviation + mean, PACKED), return_dict=False)[0]


def _encode(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    from torch.nn.functional import pixel_unshuffle

    mean, deviation = _statistics(module)
    return (pixel_unshuffle(module.encode(inputs["image"]).latent_dist.mode(), PACKED) - mean) / deviation


def unpacked(x: Array) -> Array:
    """Returns a latent of [N, 4·C, h, w] as [N, C, 2·h, 2·w]."""
    count, channels, rows, columns = x.shape
    cells = x.reshape(count, channels // PACKED**2, PACKED, PACKED, rows, columns)
    return cells.transpose(0, 1, 4, 2, 5, 3).reshape(count, -1, rows * PACKED, columns * PACKED)


def packed(x: Array) -> Array:
    """Returns a latent of [N, C, 2·h, 2·w] as [N, 4·C, h, w]."""
    count, channels, height, width = x.shape
    rows, columns = height // PACKED, width // PACKED
    cells = x.reshape(count, channels, rows, PACKED, columns, PACKED)
    return cells.transpose(0, 1, 3, 5, 2, 4).reshape(count, -1, rows, columns)


def _arrays(half: str) -> Callable[[Config, Collection[str]], ArrayNetwork | None]:
    inner = (autoencoder.DECODER if half == "decoder" else autoencoder.ENCODER).arrays

    def network(config: Config, names: Collection[str]) -> ArrayNetwork | None:
        plain = inner(config, names)
        if plain is None:
            return None
        weights = (*plain.weights, _MEAN, _VARIANCE)
        epsilon = float(config.get("batch_norm_eps", _EPSILON))

        def observe(arrays: Mapping[str, Array], x: Array) -> Observed:
            import numpy as np

            mean, variance = (arrays[name].reshape(-1, 1, 1) for name in (_MEAN, _VARIANCE))
            deviation = np.sqrt(variance + epsilon).astype(np.float32)
            if half == "decoder":
                return plain.observe(arrays, unpacked(x * deviation + mean))
            largest, moments = plain.observe(arrays, x)
            return largest, (packed(moments[:, : moments.shape[1] // 2]) - mean) / deviation

        return ArrayNetwork(plain.streams, weights, observe)

    return network


DECODER = dataclasses.replace(
    autoencoder.DECODER,
    inputs=(Value("latent", Kind.PIXELS, lambda g: (1, *autoencoder.latent_shape(g)), "Latents as they were sampled"),),
    wrap=_wrap_decoder,
    reference=_decode,
    arrays=_arrays("decoder"),
)
ENCODER = dataclasses.replace(
    autoencoder.ENCODER,
    summary="Image encoder: a picture to its latents",
    outputs=(
        Value(
            "latent",
            Kind.PIXELS,
            lambda g: (1, *autoencoder.latent_shape(g)),
            "Mean of the latents' distribution, as it is sampled",
        ),
    ),
    files={
        "ios": FileNames("VAEEncoder.mlpackage", "main", ("x",), ("latent",)),
        "android": FileNames("vae_encoder.tflite", "encode_image", ("image",), ("latent",)),
        "onnx": FileNames("vae_encoder.onnx", "main", ("image",), ("latent",)),
    },
    wrap=_wrap_encoder,
    reference=_encode,
    arrays=_arrays("encoder"),
)
