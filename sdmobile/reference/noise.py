"""The seeded initial noise, defined so that a phone can reproduce it.

The definition `numpy-mt19937-polar-v1`:

1. **Bits.** MT19937 seeded with an unsigned 32-bit integer: key[0] = seed and, modulo 2³²,
   key[i] = 1812433253·(key[i−1] xor key[i−1] ≫ 30) + i; tempered 32-bit outputs (Matsumoto and Nishimura, ACM TOMACS
   8(1), 1998, with the seeding of their 2002 version).
2. **Doubles.** u = ((r₁ ≫ 5)·2²⁶ + (r₂ ≫ 6)) / 2⁵³ from two consecutive outputs: 53 bits in [0, 1).
3. **Normals.** Marsaglia's polar method: x₁ = 2u₁−1, x₂ = 2u₂−1, r = x₁²+x₂², drawn again while r ≥ 1 or r = 0;
   f = √(−2·ln r / r); the first value is f·x₂, the next is f·x₁.
4. **Order.** The values fill an array [1, C, h, w] with w fastest, whatever layout the file takes.
5. **Scale.** Multiplied in float64 by the scheduler's initial sigma, then rounded to float32.

It is NumPy's legacy `RandomState(seed).standard_normal` and the default `numpyRNG` of Apple's StableDiffusion Swift
package (swift/StableDiffusion/pipeline/NumPyRandomSource.swift), so the same seed starts the same picture there.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DEFINITION = "numpy-mt19937-polar-v1"
MAX_SEED = 2**32 - 1
GOLDEN_SEEDS = (0, 1, 42, MAX_SEED)
GOLDEN_COUNT = 16


class SeedError(UsageError):
    """A seed outside the range that the noise definition covers."""


def check_seed(seed: int) -> int:
    """Returns the seed.

    Raises:
        SeedError: it is not an unsigned 32-bit integer.
    """
    if not 0 <= seed <= MAX_SEED:
        raise SeedError(f"a seed is an integer from 0 to {MAX_SEED}", seed, "Give another --seed.")
    return seed


def standard_normal(seed: int, shape: Sequence[int]) -> NDArray[np.float64]:
    """Draws independent standard normal values in float64, last axis fastest."""
    return np.random.RandomState(check_seed(seed)).standard_normal(tuple(shape))


def initial_latent(seed: int, shape: Sequence[int], sigma: float = 1.0) -> NDArray[np.float32]:
    """Returns the latent that sampling starts from.

    Args:
        seed: unsigned 32-bit integer.
        shape: [1, C, h, w].
        sigma: the scheduler's initial noise scale (Diffusers' `init_noise_sigma`).
    """
    return (standard_normal(seed, shape) * float(sigma)).astype(np.float32)


class NoiseStream:
    """The documented noise of one seed, drawn on: the initial latent first, then what further steps ask for.

    Args:
        seed: unsigned 32-bit integer.
        shape: of each draw, [1, C, h, w].
    """

    def __init__(self, seed: int, shape: Sequence[int]) -> None:
        self._state = np.random.RandomState(check_seed(seed))
        self._shape = tuple(shape)

    def draw(self, sigma: float = 1.0) -> NDArray[np.float32]:
        """Returns the next values, multiplied in float64 by `sigma` and rounded to float32; the first are those of
        `initial_latent`."""
        return (self._state.standard_normal(self._shape) * sigma).astype(np.float32)


def golden_vectors() -> dict[str, object]:
    """Returns what an implementation on a phone is tested with, as plain JSON.

    `bits` must match exactly; `normals` to 1e-12, because a phone's logarithm may differ in the last bit; `float32` is
    the first values as the file sees them; `latent` gives sums over a whole latent.
    """
    return {
        "definition": DEFINITION,
        "algorithm": [line for line in (__doc__ or "").splitlines() if line],
        "vectors": [golden_vector(seed) for seed in GOLDEN_SEEDS],
    }


def golden_vector(seed: int) -> dict[str, Any]:
    """Returns the first values of one seed, and what sums and hash of a whole latent are."""
    bits = np.random.RandomState(seed).randint(0, 2**32, size=GOLDEN_COUNT, dtype=np.uint32)
    latent = initial_latent(seed, (1, 4, 64, 64))
    return {
        "seed": seed,
        "bits": [int(value) for value in bits],
        "normals": [float(value) for value in standard_normal(seed, (GOLDEN_COUNT,))],
        "float32": [float(value) for value in latent.ravel()[:GOLDEN_COUNT]],
        "latent": {
            "shape": list(latent.shape),
            "last": float(latent.ravel()[-1]),
            "sum": float(latent.astype(np.float64).sum()),
            "sum_of_squares": float(np.square(latent.astype(np.float64)).sum()),
            "sha256_float32_little_endian": hashlib.sha256(latent.astype("<f4").tobytes()).hexdigest(),
        },
    }
