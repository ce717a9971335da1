"""What each target's files take and return, and the way from and to the canonical arrays.

The pipeline speaks one language, the *canonical* arrays: channels first, float32, int64 token ids. A target's file may
want other names, layouts and types; its contract says which, and converts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sdmobile.checkpoints.types import ComponentName

COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
TARGETS = ("ios", "android", "onnx")
_MODULES: dict[str, ComponentName] = {
    "text_encoder": "text_encoder",
    "unet": "unet",
    "vae_decoder": "vae",
    "vae_encoder": "vae",
}

# How the axes of a canonical array, (batch, channels, height, width) or (batch, tokens, width), lie in the file.
# One permutation each, so a layout and its inverse cannot disagree.
_PERMUTATIONS: dict[str, tuple[int, ...]] = {
    "nchw": (0, 1, 2, 3),
    "nhwc": (0, 2, 3, 1),
    "tokens": (0, 1, 2),
    "channels_1_tokens": (0, 2, 1),  # then a unit axis before the tokens: (B, D, 1, S), the form of the Neural Engine
    "token_ids": (0, 1),
    "flat": (0,),
}
OPAQUE = "opaque"  # a value between two parts of a component: nobody outside looks at its axes


@dataclass(frozen=True)
class Geometry:
    """The sizes that fix every shape: latents in cells, images in pixels, context in tokens and features."""

    batch: int
    latent_channels: int
    latent_height: int
    latent_width: int
    image_height: int
    image_width: int
    context_length: int
    context_dim: int

    def to_json(self) -> dict[str, int]:
        """Returns the fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> Geometry:
        """Returns the geometry that `to_json` wrote."""
        return cls(**{name: int(value) for name, value in data.items()})


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a file.

    Args:
        name: the name in the file.
        shape: the shape in the file.
        dtype: "float32", "int32" or "int64", the element type at the file's interface.
        description: one sentence for the model card and the package's metadata.
        canonical: the name of the canonical array.
        layout: how the canonical axes lie in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    description: str
    canonical: str
    layout: str

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """Returns a canonical array in the file's layout and type.

        Raises:
            UnsupportedError: the shape is not the contract's.
        """
        import numpy as np

        value = np.asarray(array)
        if self.layout != OPAQUE and value.ndim == len(_PERMUTATIONS[self.layout]):
            value = value.transpose(_PERMUTATIONS[self.layout])
            if self.layout == "channels_1_tokens":
                value = value[:, :, None, :]
        if value.shape != self.shape:
            raise UnsupportedError(
                f"`{self.canonical}` must have the shape {self.canonical_shape} of the exported file",
                np.shape(array),
                "Export again with the resolution and guidance that you need",
            )
        return np.ascontiguousarray(value, dtype=self.dtype)

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of the file in canonical layout; floating values become float32.

        Raises:
            UnsupportedError: the shape is not the contract's.
        """
        import numpy as np

        value = np.asarray(array)
        if value.shape != self.shape:
            raise UnsupportedError(
                f"`{self.name}` of the file must have the shape {self.shape} of its contract",
                value.shape,
                "The file and its manifest do not belong together; export again",
            )
        if self.layout == "channels_1_tokens":
            value = value[:, :, 0, :]
        inverse = range(value.ndim) if self.layout == OPAQUE else np.argsort(_PERMUTATIONS[self.layout])
        dtype = np.float32 if np.issubdtype(value.dtype, np.floating) else np.int64
        return np.ascontiguousarray(value.transpose(inverse), dtype=dtype)

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """The shape of the canonical array."""
        if self.layout == OPAQUE:
            return self.shape
        order = _PERMUTATIONS[self.layout]
        shape = self.shape[:2] + self.shape[3:] if self.layout == "channels_1_tokens" else self.shape
        return tuple(shape[order.index(axis)] for axis in range(len(order)))


@dataclass(frozen=True)
class Contract:
    """The interface of one component's file for one target."""

    target: str
    component: str
    file_name: str
    signature: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_target(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns canonical inputs as the file wants them, by the file's names.

        Raises:
            UnsupportedError: an input is missing or has another shape.
        """
        missing = [spec.canonical for spec in self.inputs if spec.canonical not in arrays]
        if missing:
            raise UnsupportedError(f"{self.component} needs the inputs {[s.canonical for s in self.inputs]}", missing)
        return {spec.name: spec.to_file(arrays[spec.canonical]) for spec in self.inputs}

    def from_target(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the file's outputs as canonical arrays by canonical names.

        Raises:
            UnsupportedError: an output is missing or has another shape.
        """
        missing = [spec.name for spec in self.outputs if spec.name not in arrays]
        if missing:
            raise UnsupportedError(f"{self.file_name} must return {[s.name for s in self.outputs]}", sorted(arrays))
        return {spec.canonical: spec.to_canonical(arrays[spec.name]) for spec in self.outputs}

    def to_json(self) -> dict[str, Any]:
        """Returns the contract as a JSON object."""

        def items(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
            return [{**asdict(spec), "shape": list(spec.shape)} for spec in specs]

        return {**asdict(self), "inputs": items(self.inputs), "outputs": items(self.outputs)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Contract:
        """Returns the contract that `to_json` wrote."""

        def specs(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(**{**item, "shape": tuple(item["shape"])}) for item in items)

        return cls(**{**data, "inputs": specs(data["inputs"]), "outputs": specs(data["outputs"])})


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
    lying = tuple(shape[axis] for axis in _PERMUTATIONS[layout])
    if layout == "channels_1_tokens":
        lying = (lying[0], lying[1], 1, lying[2])
    return TensorSpec(name, lying, dtype, description, canonical, layout)


def module_name(component: str) -> ComponentName:
    """Returns the part of a checkpoint that holds a component: the two halves of the autoencoder share one."""
    return _MODULES[component]


def wrap(target: str, component: str, module: torch.nn.Module) -> torch.nn.Module:
    """Returns a module whose forward takes the target's inputs in order and returns its one output tensor.

    Args:
        target: "ios", "android" or "onnx".
        component: one of `COMPONENTS`.
        module: the text encoder, the UNet, or the whole autoencoder.
    """
    from sdmobile.exporters.wrappers import wrap_component

    return wrap_component(target, component, module)
