"""What a program keeps from one prediction to the next, as an app holds it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sdmobile.formats.mlprogram.errors import InputError
from sdmobile.formats.mlprogram.types import FLOATS, NamedType


class State:
    """The states of one program; all are 0 at first. `MLProgram.make_state` makes it, `predict` changes it.

    Args:
        types: names and types of the states.
    """

    def __init__(self, types: Sequence[NamedType]) -> None:
        self._types = {item.name: item.type for item in types}
        self.tensors = {name: torch.zeros(type_.sizes, dtype=_held(type_.dtype)) for name, type_ in self._types.items()}

    def read(self, name: str) -> np.ndarray:
        """Returns a copy of one state, of the declared element type; raises InputError if there is none so called."""
        self._check(name)
        return np.array(self.tensors[name].numpy(), self._types[name].dtype)

    def write(self, name: str, value: np.ndarray) -> None:
        """Replaces one state by numbers of its shape, rounded to its type.

        Raises:
            InputError: there is no such state, or the shape is another.
        """
        self._check(name)
        declared = self._types[name]
        if not declared.fits(np.shape(value)):
            raise InputError(f"State '{name}' must have the shape {list(declared.shape)}", list(np.shape(value)))
        rounded = np.array(value, declared.dtype)
        self.tensors[name] = torch.from_numpy(rounded).to(_held(declared.dtype))

    def _check(self, name: str) -> None:
        if name not in self._types:
            raise InputError("A state must be one of the program", name, f"Choose from {', '.join(self._types)}")


def _held(dtype: str) -> torch.dtype:
    return torch.float32 if dtype in FLOATS else torch.bool if dtype == "bool" else torch.int32
