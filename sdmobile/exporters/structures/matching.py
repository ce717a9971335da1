"""Finds which parameters a stored tensor of a probe was made of, by the numbers themselves.

All weights of a probe are random, so a tensor that equals a transformed parameter byte for byte is that parameter. What
is found so is proved on a second probe before a structure is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import permutations
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.exporters.structures.bindings import Binding, Step, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Shapes = Mapping[str, tuple[int, ...]]
_TILES = (2, 4, 6)
_WINOGRAD_ORDERS = ((1, 0, 2, 3), (0, 1, 2, 3))
_NEAR = 2e-3  # of a ratio of two float16 numbers
_LARGEST_HEAD = 1024
_KERNEL = 3


@dataclass
class Parameters:
    """The parameters of a probe, drawn when they are asked for.

    Args:
        shapes: by name.
        draw: returns the values of one.

    Each is drawn once for what tells it from the others: the first and the last number stay so, whatever the order of
    the axes. Of all others of its size it need not be drawn again.
    """

    shapes: Shapes
    draw: Callable[[str], NDArray[np.float32]]
    by_size: dict[int, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_size = {}
        for name, shape in self.shapes.items():
            self.by_size.setdefault(prod(shape), []).append(name)
        self.read = lru_cache(maxsize=8)(self.draw)
        self.ends: dict[str, NDArray[np.float32]] = {}
        self.edges: dict[str, tuple[NDArray[np.float32], ...]] = {}
        self.length: dict[str, float] = {}
        for name in self.shapes:
            array = self.draw(name)
            self.ends[name] = array.reshape(-1)[[0, -1]]
            self.edges[name] = tuple(_edge(array, axis) for axis in range(array.ndim))
            self.length[name] = length_of(array.reshape(-1))


def bindings_of(stored: Array, parameters: Parameters) -> Iterator[Binding]:
    """Yields where a stored tensor may come from; nothing where the closed list of transforms cannot make it.

    Several scales may give the same numbers, rounded; other weights tell them apart.

    Args:
        stored: out of the file of a probe.
        parameters: of that probe.
    """
    for candidates in (_whole, _scaled, _parts, _joined, _winograd):
        found = False
        for binding in candidates(stored, parameters):
            arrays = [parameters.read(name) for name in binding.parameters]
            if same_bytes(binding.value(arrays), stored):
                found = True
                yield binding
                if candidates is not _scaled:
                    return
        if found:
            return


def length_of(flat: Array) -> float:
    """Returns √Σx² of some numbers, which no order of them changes."""
    return float(np.sqrt(np.square(flat, dtype=np.float64).sum()))


def same_bytes(one: Array, other: Array) -> bool:
    """Returns whether two arrays have the same bits, NaN and the sign of 0 included."""
    bits = f"u{one.dtype.itemsize}"
    return one.shape == other.shape and np.array_equal(
        np.ascontiguousarray(one).view(bits), np.ascontiguousarray(other).view(bits)
    )


def _orders(shape: tuple[int, ...], stored: tuple[int, ...]) -> Iterator[tuple[Step, ...]]:
    """Yields the ways to bring an array of a shape into another shape: the order of the axes, then a reshape."""
    seen: set[tuple[int, ...]] = set()
    for axes in permutations(range(len(shape))):
        moved = tuple(axis for axis in axes if shape[axis] != 1)  # axes of length 1 may lie anywhere
        if moved in seen:
            continue
        seen.add(moved)
        permute: tuple[Step, ...] = () if moved == tuple(sorted(moved)) else (("permute", axes),)
        reached = tuple(shape[axis] for axis in axes) if permute else shape
        yield (*permute, *((("reshape", stored),) if reached != stored else ()))


def _whole(stored: Array, parameters: Parameters) -> Iterator[Binding]:
    dtype = stored.dtype.name
    corner = stored.reshape(-1)[0]
    for name in parameters.by_size.get(stored.size, ()):
        if cast(parameters.ends[name], dtype)[0] == corner:
            for steps in _orders(parameters.shapes[name], stored.shape):
                yield Binding((name,), steps, dtype)


def _parts(stored: Array, parameters: Parameters) -> Iterator[Binding]:
    """Yields a part of a parameter along one axis, which is then moved."""
    dtype = stored.dtype.name
    corner = stored.reshape(-1)[0]
    for name, shape in parameters.shapes.items():
        size = prod(shape)
        if size <= stored.size:
            continue
        for axis, length in enumerate(shape):
            rest = size // length
            if stored.size % rest or not rest:
                continue
            count = stored.size // rest
            edge = cast(parameters.edges[name][axis], dtype)
            for start in np.flatnonzero(edge == corner):
                stop = int(start) + count
                if stop <= length:
                    part: Step = ("part", axis, int(start), stop)
                    lying = (*shape[:axis], count, *shape[axis + 1 :])
                    for steps in _orders(lying, stored.shape):
                        yield Binding((name,), (part, *steps), dtype)


def _edge(array: Array, axis: int) -> Array:
    """Returns the first number of each part of length 1 along an axis."""
    return array[tuple(slice(None) if other == axis else 0 for other in range(array.ndim))].copy()


def _joined(stored: Array, parameters: Parameters) -> Iterator[Binding]:
    """Yields several parameters one after the other along the first or the last axis of the stored tensor."""
    dtype = stored.dtype.name
    for axis in dict.fromkeys((0, stored.ndim - 1)):
        names: list[str] = []
        position = 0
        while position < stored.shape[axis]:
            rest = np.moveaxis(stored, axis, 0)[position:]
            corner = rest.reshape(-1)[0]
            row = stored.size // stored.shape[axis]
            found = [
                name
                for name, ends in parameters.ends.items()
                if cast(ends, dtype)[0] == corner and prod(parameters.shapes[name]) % row == 0
            ]
            if len(found) != 1:
                break
            names.append(found[0])
            position += prod(parameters.shapes[found[0]]) // row
        if position == stored.shape[axis] and len(names) > 1 and len({len(parameters.shapes[n]) for n in names}) == 1:
            shapes = [parameters.shapes[name] for name in names]
            for own in range(len(shapes[0])):
                joined = tuple(sum(s[own] for s in shapes) if i == own else shapes[0][i] for i in range(len(shapes[0])))
                if all(s[:own] + s[own + 1 :] == shapes[0][:own] + shapes[0][own + 1 :] for s in shapes):
                    for steps in _orders(joined, stored.shape):
                        yield Binding(tuple(names), (("concatenate", own), *steps), dtype)


def _scaled(stored: Array, parameters: Parameters) -> Iterator[Binding]:
    """Yields a parameter times constants: the scale of an attention, its root, two float16 factors of either."""
    dtype = stored.dtype.name
    length = length_of(stored.reshape(-1))
    ends = stored.reshape(-1)[[0, -1]]
    products, factors = _factors()
    for name in parameters.by_size.get(stored.size, ()):
        ratio = length / max(parameters.length[name], 1e-30)
        if not _near(parameters.ends[name] * ratio, ends, 2 * _NEAR):  # all of one size are about as long
            continue
        for index in np.flatnonzero(np.abs(ratio / products - 1) < _NEAR).tolist():
            for steps in _orders(parameters.shapes[name], stored.shape):
                if not _agree(stored, parameters.read(name), steps, float(products[index])):
                    continue
                for precision in ("float32", "float16", "float64"):
                    scales = tuple(("scale", factor, precision) for factor in factors[index])
                    yield Binding((name,), (*scales, *steps), dtype)


def _agree(stored: Array, array: Array, steps: tuple[Step, ...], factor: float) -> bool:
    """Returns whether an array times a factor is about what is stored: cheaper than the exact comparison."""
    moved = Binding(("",), steps, "float32").value([array]).reshape(-1)[:64].astype(np.float64)
    return _near(moved * factor, stored.reshape(-1)[:64], _NEAR)


def _near(one: Array, other: Array, share: float) -> bool:
    return bool(np.allclose(one, other.astype(np.float64), rtol=share, atol=1e-6))


@lru_cache(maxsize=1)
def _factors() -> tuple[NDArray[np.float64], list[tuple[float, ...]]]:
    """Returns the products, and the factors of each, that a weight may be multiplied by one after the other."""
    from sdmobile.rewrites.constants import float16_factors

    found: dict[tuple[float, ...], None] = {}
    for width in range(2, _LARGEST_HEAD + 1):
        found |= dict.fromkeys((value,) for value in (width**-0.5, width**-0.25, width**0.25))
        for scale in (width**-0.5, width**-0.25):
            a, b = float16_factors(scale)
            found |= dict.fromkeys([(a,), (b,), (a, b), (b, a)])
    found |= {(2.0**k,): None for k in range(-24, 25) if k}
    kept = [factors for factors in found if factors != (1.0,)]
    return np.array([np.prod(factors) for factors in kept]), kept


def _winograd(stored: Array, parameters: Parameters) -> Iterator[Binding]:
    """Yields the transformed weight or bias of a Winograd convolution."""
    dtype = stored.dtype.name
    for tile in _TILES:
        groups = (tile + _KERNEL - 1) ** 2
        if stored.size % groups:
            continue
        for name in parameters.by_size.get(stored.size // groups * _KERNEL**2, ()):
            shape = parameters.shapes[name]
            if shape[2:] == (_KERNEL, _KERNEL):
                for steps in _orders((groups * shape[0], shape[1]), stored.shape):
                    yield Binding((name,), (("winograd", tile, "weight"), *steps), dtype)
        for name in parameters.by_size.get(stored.size // groups, ()):
            if len(parameters.shapes[name]) == 1:
                yield Binding((name,), (("winograd", tile, "bias"), ("reshape", stored.shape)), dtype)
