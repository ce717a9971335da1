"""How many files `--chunks auto` cuts a denoiser into: parts of a size that the device likes."""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.device_profiles import DeviceProfile

AUTO = 0
"""Stands for the number that is not settled yet."""
ONE_FILE = 1_000_000_000
"""Bytes up to which a file stays whole where the device's profile says nothing."""
_FLOAT16 = 2


def chunks_for(checkpoint: Checkpoint, profile: DeviceProfile) -> int:
    """Returns the number of files for a denoiser: ⌈float16 bytes / share⌉, and one file if these bytes fit one.

    The share is eight tenths of the device's part size, as parts are cut between operators and come out unequal.

    Args:
        checkpoint: whose denoiser.
        profile: its `hardware.part_bytes` is the largest part that loads and compiles in good time.
    """
    tensors = checkpoint.components[checkpoint.family.denoiser.model].tensors
    size = _FLOAT16 * sum(prod(tensor.shape) for tensor in tensors.values())
    fact = profile.hardware.get("part_bytes")
    largest = ONE_FILE if fact is None or fact.value is None else int(fact.value)
    return 1 if size <= largest else ceil(size / (0.8 * largest))
