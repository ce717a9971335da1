"""Reading and writing what a program keeps; the reader names the result of a write as its state."""

from __future__ import annotations

from torch import Tensor

from sdmobile.runtimes.mlprogram.ops.registry import op


@op(moves_data=True)
def read_state(input: Tensor) -> Tensor:
    """The value of the state at this point of the program."""
    return input


@op(moves_data=True)
def write_state(input: Tensor, data: Tensor) -> Tensor:
    """The new value of the state, for what follows and for the next prediction."""
    return data
