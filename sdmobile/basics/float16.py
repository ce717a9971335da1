"""Finds weights that float16 cannot hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

# IEEE 754-2019, binary16, round half to even: the largest finite value is 65504 and 65520 is the first that rounds to
# infinity; the smallest subnormal is 2^-24 and 2^-25 is the largest magnitude that rounds to zero.
MAX_FINITE = 65504.0
ROUNDS_TO_INFINITY = 65520.0
ROUNDS_TO_ZERO = 2.0**-25
SMALLEST = 2.0**-24
# The least ε of a norm that divides by the largest deviation first: (6·√ε)², what is left of it where a group has no
# deviations, must not vanish.
LEAST_EPSILON = 2.0**-29
_BLOCK = 1 << 16  # values whose magnitudes stay in a core's cache


@dataclass(frozen=True)
class TensorLoss:
    """The values of one tensor that float16 loses.

    Args:
        name: the parameter.
        elements: its size.
        overflow: values that become infinite.
        flushed: values other than zero that become zero.
        max_abs: largest magnitude in float32.
    """

    name: str
    elements: int
    overflow: int
    flushed: int
    max_abs: float

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return asdict(self)


def scan(weights: Iterable[tuple[str, Tensor | NDArray[Any]]]) -> list[TensorLoss]:
    """Returns the tensors that lose values in float16, in the order given; integer tensors are passed over.

    Args:
        weights: names, and tensors of PyTorch or arrays of NumPy.
    """
    losses = []
    for name, weight in weights:
        values = _floats(weight)
        if values is None or values.size == 0:
            continue
        largest, overflow, flushed = 0.0, 0, 0
        for start in range(0, values.size, _BLOCK):
            magnitude = np.abs(values[start : start + _BLOCK])
            here = float(magnitude.max())
            if here >= ROUNDS_TO_INFINITY:
                overflow += int(np.count_nonzero(magnitude >= ROUNDS_TO_INFINITY))
            flushed += int(np.count_nonzero(magnitude <= ROUNDS_TO_ZERO) - np.count_nonzero(magnitude == 0))
            largest = max(largest, here)
        if overflow or flushed:
            losses.append(TensorLoss(name, values.size, overflow, flushed, largest))
    return losses


def _floats(weight: Tensor | NDArray[Any]) -> NDArray[np.floating] | None:
    """Returns the values in one row, in float32 or wider; None for integers."""
    if isinstance(weight, np.ndarray):
        values = weight if weight.dtype.kind == "f" else None
    else:
        # NumPy has no bfloat16.
        exact = weight.detach().float() if weight.dtype.itemsize < 4 else weight.detach()
        values = exact.numpy() if weight.is_floating_point() else None
    if values is None:
        return None
    return values.reshape(-1).astype(np.promote_types(values.dtype, np.float32), copy=False)


def warnings_for(losses: list[TensorLoss]) -> list[str]:
    """Returns one sentence per tensor that overflows; flushed values are harmless alone and stay in the record."""
    return [
        f"{loss.overflow} of {loss.elements} weights of {loss.name} exceed {MAX_FINITE:.0f}, "
        f"the largest float16 number (up to {loss.max_abs:.3g})"
        for loss in losses
        if loss.overflow
    ]
