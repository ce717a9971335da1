"""Weights that a converter would treat as something else than weights, so that a stored structure does not hold.

Converters drop what adds 0 or multiplies by 1, and store equal tensors once. Networks that were not trained have such
weights; of trained ones, those that nothing reads, or whose gradients are always the same (`training.dit.run`).
"""

from __future__ import annotations

from hashlib import blake2b
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from sdmobile.errors import ComponentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.exporters.structures.bindings import Binding

_SAMPLE = 4096


class OrdinaryWeightsError(ComponentError):
    """A checkpoint has weights for which only the long way knows what is written."""


class Guard:
    """Looks at the stored tensors of one component, from several threads."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[str, ...]] = {}
        self._lock = Lock()

    def check(self, binding: Binding, stored: NDArray[np.generic]) -> None:
        """Raises OrdinaryWeightsError where all numbers of a tensor are one, or it equals one that was seen.

        Args:
            binding: of the tensor.
            stored: as it goes into the file.
        """
        flat = stored.reshape(-1)
        if flat.size > 1 and flat[0] == flat[1] and bool((flat == flat[0]).all()):
            raise OrdinaryWeightsError(
                "a structure takes weights that are not all one number",
                f"{binding.parameters[0]} is {flat[0]} throughout",
            )
        # Equal tensors have equal beginnings and ends; random ones do not, and a wrong alarm costs time alone.
        ends = np.ascontiguousarray(np.concatenate([flat[:_SAMPLE], flat[-_SAMPLE:]]))
        key = blake2b(ends.tobytes() + f"{flat.size} {flat.dtype}".encode(), digest_size=16).digest()
        with self._lock:
            other = self._seen.setdefault(key, binding.parameters)
        if other is not binding.parameters and other != binding.parameters:
            raise OrdinaryWeightsError(
                "a structure takes weights of which no two are the same", f"{other[0]} and {binding.parameters[0]}"
            )
