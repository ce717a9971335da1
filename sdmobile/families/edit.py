"""What a user gives to change a picture rather than draw one: the picture, where it is repainted, and how much."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from sdmobile.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_BLOCKS = 4  # of flat colour along each side of the picture that is made where none is given


def coloured_blocks(seed: int, height: int, width: int) -> NDArray[np.float32]:
    """Returns a picture of blocks of random colours, [1, 3, H, W] in [-1, 1], for sampling runs that are given none."""
    import numpy as np

    rows, columns = (np.arange(size) * _BLOCKS // size for size in (height, width))
    blocks = np.random.default_rng([seed, height, width]).uniform(-1, 1, (1, 3, _BLOCKS, _BLOCKS))
    return blocks[:, :, rows][..., columns].astype(np.float32)


@dataclass(frozen=True, eq=False)
class Edit:
    """A picture to start from. Equal ones have the same content.

    Args:
        image: float32 [1, 3, H, W] in [-1, 1].
        mask: float32 [1, 1, H, W], 1 where it is repainted and 0 elsewhere; None for the whole picture.
        strength: share of the sampling steps that are run, above 0 and at most 1; at 1 an inpainting model starts from
            noise alone.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.float32] | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and 0 < self.strength <= 1):
            raise UsageError("the strength must be a number above 0 and at most 1", self.strength)

    def steps_of(self, steps: int) -> int:
        """Returns how many of the scheduler's steps are run, the last ones.

        Raises:
            UsageError: none.
        """
        run = min(int(steps * self.strength), steps)
        if run < 1:
            raise UsageError(
                "steps times strength must be at least 1", f"{steps} × {self.strength:g}", "Take more of either"
            )
        return run

    @cached_property
    def key(self) -> str:
        """SHA-256 of picture, mask and strength."""
        digest = hashlib.sha256(f"{self.strength!r} {self.image.shape} {self.mask is not None}\n".encode())
        digest.update(self.image.tobytes())
        digest.update(b"" if self.mask is None else self.mask.tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)
