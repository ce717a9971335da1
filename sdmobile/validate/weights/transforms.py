"""What a parameter may look like in a file: the transforms that exporters and converters make of it.

A file may hold a parameter as it is; with its axes in the order of the operation that takes it; multiplied by the scale
of its attention, which converters fold into the projection of the queries; with a factor and an offset of the operation
beside it; in pieces along the rows or columns; or transformed for Winograd's convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from sdmobile.validate.weights.stored import StoredArray

_KERNEL = 3


@dataclass(frozen=True)
class Parameter:
    """A parameter of the checkpoint.

    Args:
        name: dotted path.
        array: its values, float32.
        factors: numbers that a converter may have multiplied it by.
        folded: factor and offset that it may have put into it from the operation beside it.
        expanded: what it may have made of it where the component looks up its rows by numbers that it knows.
    """

    name: str
    array: NDArray[np.float32]
    factors: tuple[float, ...] = ()
    folded: tuple[float, float] | None = None
    expanded: NDArray[np.float32] | None = None

    @property
    def module(self) -> str:
        """Path of its module."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Form:
    """What a stored array would hold if it were a parameter, or a part of it, under one transform.

    Args:
        transform: in words, "" for none.
        values: in the order and shape of the file.
        part: the rows of the parameter that it covers, as a fraction from 0 to 1.
    """

    transform: str
    values: NDArray[Any]
    part: tuple[float, float] = (0.0, 1.0)


def forms(parameter: Parameter, stored: StoredArray) -> Iterator[Form]:
    """Yields what a stored array may hold of a parameter, the plain forms first."""
    array = parameter.array
    for order in stored.orders:
        fits = len(order) == array.ndim
        turned = array.transpose(order) if fits else array
        words = f"axes {list(order)}" if fits else ""
        if array.size == stored.size:
            yield Form(words, turned.reshape(stored.shape))
            for factor in parameter.factors:
                yield Form(_joined(words, f"times {factor:.6g}"), (turned * np.float64(factor)).reshape(stored.shape))
            if parameter.folded is not None:
                factor, offset = parameter.folded
                change = f"times {factor:g}" + (f", {offset:+g}" if offset else "")
                yield Form(_joined(words, change), (turned * np.float64(factor) + offset).reshape(stored.shape))
        elif fits or not order:
            for piece in _pieces(array, order if fits else tuple(range(array.ndim)), stored):
                yield Form(_joined(words, piece.transform), piece.values, piece.part)
    yield from _winograd(array, stored)


def _joined(*words: str) -> str:
    return ", ".join(word for word in words if word)


def _pieces(array: NDArray[Any], order: tuple[int, ...], stored: StoredArray) -> Iterator[Form]:
    """Yields equal pieces of an array along its first axis, or of a table along its columns."""
    for axis, name in ((0, "rows"), (1, "columns")):
        if axis >= array.ndim or array.size == 0:
            continue
        length = stored.size * array.shape[axis] // array.size
        if length == 0 or length * (array.size // array.shape[axis]) != stored.size or length >= array.shape[axis]:
            continue
        starts = [*range(0, array.shape[axis] - length + 1, length)]
        if array.shape[axis] % length:
            starts.append(array.shape[axis] - length)
        for start in starts:
            piece = np.take(array, range(start, start + length), axis).transpose(order)
            share = (start / array.shape[axis], (start + length) / array.shape[axis])
            yield Form(f"{name} {start} to {start + length - 1}", piece.reshape(stored.shape), share)


def _winograd(array: NDArray[Any], stored: StoredArray) -> Iterator[Form]:
    """Yields a 3×3 kernel as U = G g Gᵀ in (m+2)² groups of a 1×1 convolution, and the bias of such a convolution."""
    from sdmobile.rewrites.winograd.transforms import TILES

    for tile in TILES:
        size = (tile + _KERNEL - 1) ** 2
        kernel = array.ndim == 4 and array.shape[2:] == (_KERNEL, _KERNEL)
        if kernel and stored.size * _KERNEL**2 == array.size * size:
            g = _matrix(tile, "kernel")
            u = np.einsum("ai,ocij,bj->aboc", g, array.astype(np.float64), g)
            yield Form(f"Winograd F({tile}, 3)", u.reshape(stored.shape))
        elif array.ndim == 1 and stored.size == array.size * size:
            c = _matrix(tile, "ones").reshape(-1)
            spread = np.outer(np.outer(c, c).reshape(-1), array.astype(np.float64))
            yield Form(f"Winograd F({tile}, 3)", spread.reshape(stored.shape))


@cache
def _matrix(tile: int, name: str) -> NDArray[np.float64]:
    from sdmobile.rewrites.winograd.transforms import as_array, transforms

    matrix: Any = getattr(transforms(tile), name)
    return as_array(matrix if name != "ones" else [matrix])


def parameters_of(module: nn.Module) -> list[Parameter]:
    """Returns the parameters of a component behind its file's interface, by the names of the checkpoint.

    A wrapper may say of some of its own parameters what becomes of them in a file: `folded` into a factor and a
    summand, `expanded` into another array, `idle` where no file needs them.
    """
    modules = dict(module.named_modules())
    idle: Collection[str] = getattr(module, "idle", ())
    folded: dict[str, tuple[float, float]] = getattr(module, "folded", {})
    expanded: dict[str, Callable[[Tensor], Tensor]] = getattr(module, "expanded", {})
    return [
        Parameter(
            name.removeprefix("component."),
            _array(tensor),
            _factors(modules, name),
            folded.get(name),
            _array(expanded[name](tensor)) if name in expanded else None,
        )
        for name, tensor in module.named_parameters()
        if name not in idle
    ]


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().numpy()


def _factors(modules: dict[str, nn.Module], name: str) -> tuple[float, ...]:
    """Returns the scale of the attention that a parameter belongs to, and the numbers it may be split into."""
    from sdmobile.rewrites.constants import float16_factors

    path = name.rpartition(".")[0]
    while "." in path:
        path = path.rpartition(".")[0]
        owner: Any = modules[path]
        scale = getattr(owner, "scale", None)
        width = getattr(owner, "head_dim", None)
        if scale is None and isinstance(width, int) and width > 0:
            scale = width**-0.5
        if isinstance(scale, float) and 0 < scale < 1:
            candidates = (scale, math.sqrt(scale), *float16_factors(scale))
            return tuple(dict.fromkeys(float(value) for value in candidates if value not in (0.0, 1.0)))
    return ()
