"""What each target's file of a component takes and returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.errors import UnsupportedError
from sdmobile.formats.bundle.contracts import PERMUTATIONS, TARGETS, Contract, Geometry, TensorSpec

if TYPE_CHECKING:
    from sdmobile.families.components import ComponentName


COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


_MODULES: dict[str, ComponentName] = {
    "text_encoder": "text_encoder",
    "unet": "unet",
    "vae_decoder": "vae",
    "vae_encoder": "vae",
}


# Names in the file: (file name, signature, inputs, output). Those of ios are what Apple's StableDiffusion Swift package
# looks up; those of onnx are the canonical ones.
_NAMES: dict[tuple[str, str], tuple[str, str, tuple[str, ...], str]] = {
    ("ios", "text_encoder"): ("TextEncoder.mlpackage", "main", ("input_ids",), "last_hidden_state"),
    ("ios", "unet"): ("Unet.mlpackage", "main", ("sample", "timestep", "encoder_hidden_states"), "noise_pred"),
    ("ios", "vae_decoder"): ("VAEDecoder.mlpackage", "main", ("z",), "image"),
    ("ios", "vae_encoder"): ("VAEEncoder.mlpackage", "main", ("x",), "latent_dist"),
    ("android", "text_encoder"): ("text_encoder.tflite", "encode", ("tokens",), "last_hidden_state"),
    ("android", "unet"): ("unet.tflite", "denoise", ("sample", "timestep", "encoder_hidden_states"), "noise_pred"),
    ("android", "vae_decoder"): ("vae_decoder.tflite", "decode", ("latent",), "image"),
    ("android", "vae_encoder"): ("vae_encoder.tflite", "encode_image", ("image",), "moments"),
    ("onnx", "text_encoder"): ("text_encoder.onnx", "main", ("input_ids",), "last_hidden_state"),
    ("onnx", "unet"): ("unet.onnx", "main", ("sample", "timestep", "encoder_hidden_states"), "noise_pred"),
    ("onnx", "vae_decoder"): ("vae_decoder.onnx", "main", ("latent",), "image"),
    ("onnx", "vae_encoder"): ("vae_encoder.onnx", "main", ("image",), "moments"),
}


_PIXEL_LAYOUT = {"ios": "nchw", "android": "nhwc", "onnx": "nchw"}


_CONTEXT_LAYOUT = {"ios": "channels_1_tokens", "android": "tokens", "onnx": "tokens"}


# Apple's Swift code feeds Float32; the GPU of a phone has no int64.
_TOKEN_TYPE = {"ios": "float32", "android": "int32", "onnx": "int64"}


def contract_for(target: str, component: str, geometry: Geometry) -> Contract:
    """Returns what `target`'s file for `component` takes and returns.

    Raises:
        UnsupportedError: no such target or component.
    """
    if target not in TARGETS:
        raise UnsupportedError(f"the target must be one of {', '.join(TARGETS)}", target)
    if component not in COMPONENTS:
        raise UnsupportedError(f"the component must be one of {', '.join(COMPONENTS)}", component)
    file_name, signature, input_names, output_name = _NAMES[target, component]
    inputs, output = _canonical_io(target, component, geometry)
    return Contract(
        target,
        component,
        file_name,
        signature,
        tuple(_spec(name, *entry) for name, entry in zip(input_names, inputs, strict=True)),
        (_spec(output_name, *output),),
    )


_Entry = tuple[str, tuple[int, ...], str, str, str]  # canonical name, canonical shape, layout, type, description


def _canonical_io(target: str, component: str, g: Geometry) -> tuple[list[_Entry], _Entry]:
    """Returns the canonical inputs and the output of a component, with the layout that `target` wants."""
    pixels, context, tokens = _PIXEL_LAYOUT[target], _CONTEXT_LAYOUT[target], _TOKEN_TYPE[target]
    latent = (g.latent_channels, g.latent_height, g.latent_width)
    image = (1, 3, g.image_height, g.image_width)
    if component == "text_encoder":
        ids = ("input_ids", (1, g.context_length), "token_ids", tokens, "Token ids, padded to the context length")
        hidden = (1, g.context_length, g.context_dim)
        return [ids], ("last_hidden_state", hidden, "tokens", "float32", "Text features, one row per token")
    if component == "unet":
        rows = "the unconditional row first" if g.batch == 2 else "one row"
        context_shape = (g.batch, g.context_length, g.context_dim)
        return [
            ("sample", (g.batch, *latent), pixels, "float32", f"Noisy latents, {rows}"),
            ("timestep", (g.batch,), "flat", "float32", "Timestep of the training schedule, the same in every row"),
            ("encoder_hidden_states", context_shape, context, "float32", f"Text features, {rows}"),
        ], ("noise_pred", (g.batch, *latent), pixels, "float32", "Prediction for each row, before guidance")
    if component == "vae_decoder":
        z = ("latent", (1, *latent), pixels, "float32", "Latents already divided by the scaling factor")
        return [z], ("image", image, pixels, "float32", "Image, RGB in [-1, 1]")
    moments = (1, 2 * g.latent_channels, g.latent_height, g.latent_width)
    x = ("image", image, pixels, "float32", "Image, RGB in [-1, 1]")
    return [x], ("moments", moments, pixels, "float32", "Mean, then log-variance, of the latents; unscaled")


def _spec(name: str, canonical: str, shape: tuple[int, ...], layout: str, dtype: str, description: str) -> TensorSpec:
    """Returns the spec in the file's names and layout of one canonical array."""
    lying = tuple(shape[axis] for axis in PERMUTATIONS[layout])
    if layout == "channels_1_tokens":
        lying = (lying[0], lying[1], 1, lying[2])
    return TensorSpec(name, lying, dtype, description, canonical, layout)


def module_name(component: str) -> ComponentName:
    """Returns the part of a checkpoint that holds a component: the two halves of the autoencoder share one."""
    return _MODULES[component]
