"""What a device can hold, as far as a lint needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmobile.device_profiles.runtime_rules.winograd import Gpu
from sdmobile.lint.engine import Maker

if TYPE_CHECKING:
    from sdmobile.device_profiles import DeviceProfile


@dataclass(frozen=True)
class Limits:
    """Sizes that a file must stay below; None where nothing is known.

    Args:
        buffer_bytes: largest tensor that the GPU can bind as one buffer.
        file_bytes: largest model file.
        float_bytes: bytes per float at run time; 2 at the default precision of a phone's GPU.
        deployment_target: oldest iOS version that must load the file.
        source: where the figures come from.
        gpu: the family of GPUs; it decides which weights Google's engines transform.
        texture_rows: most rows of a texture, where transformed weights are textures.
    """

    buffer_bytes: int | None = None
    file_bytes: int | None = None
    float_bytes: int = 2
    deployment_target: int | None = None
    source: str = ""
    gpu: Gpu = Gpu.OTHER
    texture_rows: int | None = None

    @property
    def maker(self) -> Maker | None:
        """Of the GPU, None if it is not known."""
        return "qualcomm" if self.gpu in (Gpu.ADRENO_6XX, Gpu.ADRENO_7XX) else None


def limits_of(profile: DeviceProfile) -> Limits:
    """Returns the limits of a device profile."""
    target = profile.deployment_target
    families = [unit.gpu for unit in profile.units.values() if unit.gpu is not None]
    return Limits(
        buffer_bytes=profile.max_buffer_bytes,
        file_bytes=profile.max_file_bytes,
        deployment_target=None if target is None else int(target.removeprefix("iOS")),
        source=f"device profile {profile.name}: {profile.limits.buffer_bytes.source}",
        gpu=Gpu(families[0]) if families else Gpu.OTHER,
        texture_rows=profile.max_texture_rows,
    )
