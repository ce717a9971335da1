"""Random weights by which a parameter is known again in an exported file."""

from __future__ import annotations

from hashlib import sha256
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBE_SEED, PROOF_SEED = 1, 2
_SPREAD = np.float32(0.05)


def probe_array(seed: int, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Returns a parameter of a probe checkpoint: normal numbers of all mantissa bits, no two parameters alike.

    Args:
        seed: of the checkpoint.
        name: the parameter's.
        shape: its axes.
    """
    key = int.from_bytes(sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
    values = np.random.Generator(np.random.SFC64(key)).standard_normal(prod(shape), np.float32)
    return (values * _SPREAD).reshape(shape)
