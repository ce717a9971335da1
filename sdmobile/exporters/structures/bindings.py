"""Where a stored tensor comes from: parameters of the checkpoint, and what was done to them.

    parameters ─▶ steps, each out of a closed list ─▶ cast ─▶ bytes in the file

The list is short on purpose: what an exporter or a converter does beyond it is an error when a structure is made, not a
wrong number later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Step = tuple[Any, ...]
"""Name of a transform and its arguments, as JSON values."""
MOVES = ("permute", "reshape", "part", "concatenate")
"""Transforms that compute nothing, so that a cast may come before them."""
_KERNEL = 3


@dataclass(frozen=True)
class Binding:
    """The origin of one stored tensor.

    Args:
        parameters: names in the model.
        steps: what is done to them in float32, in order.
        dtype: of the stored tensor.
    """

    parameters: tuple[str, ...]
    steps: tuple[Step, ...]
    dtype: str

    @property
    def moves_alone(self) -> bool:
        """Whether nothing is computed but the cast."""
        return all(step[0] in MOVES for step in self.steps)

    def value(self, arrays: Sequence[Array]) -> Array:
        """Returns the stored tensor.

        Args:
            arrays: the parameters, in order: float32, or of the stored type already where `moves_alone`.
        """
        if self.moves_alone:
            arrays = [array.astype(self.dtype, copy=False) for array in arrays]
        result = list(arrays)
        for name, *arguments in self.steps:
            result = STEPS[name](result, *arguments)
        (array,) = result
        return cast(array, self.dtype)

    def to_json(self) -> list[Any]:
        """Returns the fields as a JSON list."""
        return [list(self.parameters), [list(step) for step in self.steps], self.dtype]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> Binding:
        """Returns the binding that `to_json` wrote."""
        parameters, steps, dtype = data
        unknown = [step[0] for step in steps if step[0] not in STEPS]
        if unknown:
            raise UnsupportedError(
                f"a binding knows the steps {', '.join(STEPS)}", unknown[0], "Make the structure again"
            )
        return cls(tuple(parameters), tuple(_frozen(step) for step in steps), str(dtype))


def _frozen(step: Sequence[Any]) -> Step:
    return tuple(tuple(part) if isinstance(part, list) else part for part in step)


def cast(array: Array, dtype: str) -> Array:
    """Returns an array rounded to a type; what float16 cannot hold becomes infinite, as converters have it."""
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def _permute(arrays: list[Array], axes: Sequence[int]) -> list[Array]:
    return [array.transpose(axes) for array in arrays]


def _reshape(arrays: list[Array], shape: Sequence[int]) -> list[Array]:
    return [array.reshape(shape) for array in arrays]


def _part(arrays: list[Array], axis: int, start: int, stop: int) -> list[Array]:
    return [array[(slice(None),) * axis + (slice(start, stop),)] for array in arrays]


def _concatenate(arrays: list[Array], axis: int) -> list[Array]:
    return [np.concatenate(arrays, axis)]


def _scale(arrays: list[Array], factor: float, precision: str) -> list[Array]:
    """Multiplies in the given precision, to which tensor and factor are rounded first."""
    kind = np.dtype(precision).type
    return [cast(array, precision) * kind(factor) for array in arrays]


def _sum(arrays: list[Array]) -> list[Array]:
    """Adds in float32, from the first on."""
    total = arrays[0].astype(np.float32)
    for array in arrays[1:]:
        total = total + array
    return [total]


def _winograd(arrays: list[Array], tile: int, kind: str) -> list[Array]:
    """U = G g Gᵀ of each 3×3 kernel, (O, I, 3, 3) to ((m+2)²·O, I); or (c cᵀ) ⊗ b of a bias, (O,) to ((m+2)²·O,)."""
    if kind == "bias":
        ones = _matrix(tile, "ones")[0]
        spread = np.outer(ones, ones).reshape(-1, 1)
        return [(array.astype(np.float64) * spread).reshape(-1) for array in arrays]
    g = _matrix(tile, "kernel").T
    # In the order of `rewrites.winograd.conv.transform_weight`, so that every number is rounded alike.
    products = [np.matmul(np.matmul(array.astype(np.float64), g).swapaxes(2, 3), g) for array in arrays]
    return [u.transpose(3, 2, 0, 1).reshape(-1, u.shape[1]).astype(np.float32) for u in products]


@cache
def _matrix(tile: int, name: str) -> NDArray[np.float64]:
    from sdmobile.rewrites.winograd.transforms import as_array, transforms

    matrix: Any = getattr(transforms(tile), name)
    return as_array([matrix] if name == "ones" else matrix).astype(np.float64)


STEPS: Mapping[str, Callable[..., list[Array]]] = {
    "permute": _permute,
    "reshape": _reshape,
    "part": _part,
    "concatenate": _concatenate,
    "scale": _scale,
    "sum": _sum,
    "winograd": _winograd,
}
