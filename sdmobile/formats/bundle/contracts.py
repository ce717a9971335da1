"""What each target's files take and return, and the way from and to the canonical arrays.

The pipeline speaks one language, the *canonical* arrays: channels first, float32, int64 token ids. A target's file may
want other names, layouts and types; its contract says which, and converts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np

TARGETS = ("ios", "android", "onnx")

# How the axes of a canonical array, (batch, channels, height, width) or (batch, tokens, width), lie in the file.
# One permutation each, so a layout and its inverse cannot disagree.
PERMUTATIONS: dict[str, tuple[int, ...]] = {
    "nchw": (0, 1, 2, 3),
    "nhwc": (0, 2, 3, 1),
    "tokens": (0, 1, 2),
    "channels_1_tokens": (0, 2, 1),  # then a unit axis before the tokens: (B, D, 1, S), the form of the Neural Engine
    "token_ids": (0, 1),
    "vector": (0, 1),
    "column": (0, 1),  # then two unit axes: (B, D, 1, 1)
    "flat": (0,),
}
UNIT_AXES: dict[str, tuple[int, ...]] = {"channels_1_tokens": (2,), "column": (2, 3)}
"""Axes of length 1 that a layout has in the file besides, by their places there."""
OPAQUE = "opaque"  # a value between two parts of a component: nobody outside looks at its axes


@dataclass(frozen=True)
class Geometry:
    """The sizes that fix every shape: latents in cells, images in pixels, context in tokens and features.

    `sizes` are those that only some families have, by name.
    """

    batch: int
    latent_channels: int
    latent_height: int
    latent_width: int
    image_height: int
    image_width: int
    context_length: int
    context_dim: int
    sizes: tuple[tuple[str, int], ...] = ()

    @property
    def latent_size(self) -> tuple[int, int]:
        """h and w of a latent."""
        return self.latent_height, self.latent_width

    def size(self, name: str) -> int:
        """Returns one of the family's further sizes."""
        return dict(self.sizes)[name]

    def to_json(self) -> dict[str, int]:
        """Returns the fields as one flat JSON object."""
        data = asdict(self)
        return {**{name: value for name, value in data.items() if name != "sizes"}, **dict(self.sizes)}

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> Geometry:
        """Returns the geometry that `to_json` wrote."""
        values = {name: int(value) for name, value in data.items()}
        known = {field.name: values.pop(field.name) for field in fields(cls) if field.name in values}
        return cls(**known, sizes=tuple(values.items()))


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a file.

    Args:
        name: the name in the file.
        shape: the shape in the file.
        dtype: "float32", "int32", "int64" or, between two parts, "bool": the element type at the file's interface.
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
        if self.layout != OPAQUE and value.ndim == len(PERMUTATIONS[self.layout]):
            value = np.expand_dims(value.transpose(PERMUTATIONS[self.layout]), UNIT_AXES.get(self.layout, ()))
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
        value = value.squeeze(UNIT_AXES.get(self.layout, ()))
        inverse = range(value.ndim) if self.layout == OPAQUE else np.argsort(PERMUTATIONS[self.layout])
        dtype = np.float32 if np.issubdtype(value.dtype, np.floating) else np.int64
        return np.ascontiguousarray(value.transpose(inverse), dtype=dtype)

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """The shape of the canonical array."""
        if self.layout == OPAQUE:
            return self.shape
        order = PERMUTATIONS[self.layout]
        units = UNIT_AXES.get(self.layout, ())
        shape = [size for axis, size in enumerate(self.shape) if axis not in units]
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
