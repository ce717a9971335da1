"""Finds weights that float16 cannot hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def scan(weights: Iterable[tuple[str, Tensor]]) -> list[TensorLoss]:
    """Returns the tensors that lose values in float16, in the order given; integer tensors are passed over."""
    losses = []
    for name, tensor in weights:
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        magnitude = tensor.detach().abs()
        largest = float(magnitude.max())
        overflow = int((magnitude >= ROUNDS_TO_INFINITY).sum()) if largest >= ROUNDS_TO_INFINITY else 0
        flushed = int(((magnitude <= ROUNDS_TO_ZERO) & (magnitude > 0)).sum())
        if overflow or flushed:
            losses.append(TensorLoss(name, tensor.numel(), overflow, flushed, largest))
    return losses


def warnings_for(losses: list[TensorLoss]) -> list[str]:
    """Returns one sentence per tensor that overflows; flushed values are harmless alone and stay in the record."""
    return [
        f"{loss.overflow} of {loss.elements} weights of {loss.name} exceed {MAX_FINITE:.0f}, "
        f"the largest float16 number (up to {loss.max_abs:.3g})"
        for loss in losses
        if loss.overflow
    ]
