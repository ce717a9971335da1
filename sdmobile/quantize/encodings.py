"""One weight in one scheme: what is stored, and what the phone makes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.quantize.linear import LinearEncoding, quantize_linear, scale_shape
from sdmobile.quantize.palettes import PaletteEncoding, palettize
from sdmobile.quantize.schemes import Float16, Linear, Palette

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.quantize.schemes import Scheme


class Encoding(Protocol):
    """A compressed weight; `mse` is the mean squared error of `decode()`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def stored_bytes(self) -> int: ...

    @property
    def mse(self) -> float: ...

    def decode(self) -> NDArray[np.float16]: ...


@dataclass(frozen=True, eq=False)
class HalfEncoding:
    """A weight as it is, in float16."""

    weight: NDArray[np.float16]
    mse: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.weight.shape

    @property
    def stored_bytes(self) -> int:
        """Two bytes per element."""
        return self.weight.nbytes

    def decode(self) -> NDArray[np.float16]:
        """Returns the weight."""
        return self.weight


def encode(weight: NDArray[Any], scheme: Scheme) -> Encoding:
    """Encodes a weight; `encode(weight, scheme).decode()` is what a compressed file computes with.

    Args:
        weight: [output channels, ...], float16 or float32, finite.
        scheme: anything but W8A8, which concerns activations too.

    Raises:
        UnsupportedError: the scheme does not fit the shape, or is not for weights alone.
    """
    reason = misfit(weight.shape, scheme)
    if reason is not None:
        raise UnsupportedError(f"{scheme.name} must fit the weight", reason)
    if isinstance(scheme, Float16):
        half = np.asarray(weight, np.float16)
        difference = np.asarray(weight, np.float32) - half.astype(np.float32)
        return HalfEncoding(half, float(np.mean(np.square(difference))) if weight.dtype != np.float16 else 0.0)
    if isinstance(scheme, Palette):
        return palettize(weight, scheme)
    if isinstance(scheme, Linear):
        return quantize_linear(weight, scheme)
    raise UnsupportedError("a scheme for weights alone is fp16, a palette or linear", scheme.name)


def misfit(shape: tuple[int, ...], scheme: Scheme) -> str | None:
    """Returns why a scheme cannot encode a weight of this shape, or None."""
    if not shape or 0 in shape:
        return f"the shape {list(shape)} has no output channels"
    if isinstance(scheme, Palette) and scheme.group_size and shape[0] % scheme.group_size:
        return f"{shape[0]} output channels are not a multiple of {scheme.group_size}"
    if isinstance(scheme, Linear):
        try:
            scale_shape(shape, scheme.block_size)
        except UnsupportedError as error:
            return f"{error.rule}: {error.value}"
    return None


def scaled(encoding: Encoding, factor: float, weight: NDArray[Any]) -> Encoding:
    """Returns an encoding whose decoded weight is multiplied by a factor, up to the rounding of tables or scales.

    A number that a converter folded into the weight does not matter, because the factor commutes with it.

    Args:
        encoding: of the weight; other kinds than palettes and integers stay as they are.
        factor: on the decoded weight.
        weight: the exact weight, for the new `mse`. This may grow: the factor serves the layer's output.
    """
    if isinstance(encoding, PaletteEncoding):
        changed = replace(encoding, lut=_multiplied(encoding.lut, factor))
    elif isinstance(encoding, LinearEncoding):
        changed = replace(encoding, scale=_multiplied(encoding.scale, factor))
    else:
        return encoding
    difference = np.asarray(weight, np.float32) - changed.decode().astype(np.float32)
    return replace(changed, mse=float(np.mean(np.square(difference), dtype=np.float64)))


def _multiplied(values: NDArray[np.float16], factor: float) -> NDArray[np.float16]:
    return (values.astype(np.float32) * np.float32(factor)).astype(np.float16)
