"""Which convolutions the phone's GPU runtime computes by Winograd's method by itself: its rules as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sdmobile.device_profiles.runtime_rules.conv_layer import KERNEL, ConvLayer

_CHANNELS_PER_SLICE = 4
_ADRENO_IMAGE_ROWS = 16_384  # tallest image by clinfo of an Adreno 630 (KhronosGroup/OpenCL-ICD-Loader#265)


class Gpu(Enum):
    """A family of GPUs that the rules tell apart."""

    ADRENO_6XX = "adreno6xx"
    ADRENO_7XX = "adreno7xx"
    OTHER = "other"  # Apple's among them, with Google's Metal backend


@dataclass(frozen=True)
class RuntimeRule:
    """When a runtime takes F(4×4, 3×3).

    Args:
        name: for people.
        min_slices: least ceil(channels / 4) of input and of output, by GPU.
        min_tiles: least number of 4×4 output tiles, by GPU.
        counts_batch: whether the tiles of all images of a batch count.
        source: the file that says so.
    """

    name: str
    min_slices: dict[Gpu, int]
    min_tiles: dict[Gpu, int]
    counts_batch: bool
    source: str
    tile: int = 4

    def objection(self, layer: ConvLayer, gpu: Gpu) -> str | None:
        """Returns why the runtime computes a layer directly, None if it takes Winograd's method."""
        shape = layer.shape_objection()
        if shape is not None:
            return shape
        channels = min(layer.channels)
        slices, tiles = -(-channels // _CHANNELS_PER_SLICE), layer.tiles(self.tile)
        if slices < self.min_slices[gpu]:
            return f"{channels} channels; {self.name} wants {self.min_slices[gpu] * _CHANNELS_PER_SLICE} on {gpu.value}"
        tiles *= layer.batch if self.counts_batch else 1
        if tiles < self.min_tiles[gpu]:
            return f"{tiles} tiles; {self.name} wants {self.min_tiles[gpu]} on {gpu.value}"
        return None

    def texture_rows(self, channels: int) -> int:
        """Returns the rows of a texture that holds transformed weights of so many input channels, (m+2)² · ⌈C/4⌉."""
        return (self.tile + KERNEL - 1) ** 2 * -(-channels // _CHANNELS_PER_SLICE)

    def weight_buffer(self, layer: ConvLayer, gpu: Gpu) -> tuple[int, int] | None:
        """Returns the shape of the buffer that holds a layer's transformed weights, ((m+2)² · ⌈C/4⌉ · 4, O).

        They are four times as large as those of the file, and so often a GPU's largest tensor. Adreno holds them as
        four textures instead while their (m+2)² · ⌈C/4⌉ rows are not too many for an image.

        Returns:
            None where there is no such buffer.

        Source:
            google-ai-edge/ml-drift ml_drift/common/kernels/conv_generic.cc, GetKernelParamsAdreno.
        """
        if self.objection(layer, gpu) is not None:
            return None
        rows = self.texture_rows(layer.channels[0])
        if gpu is not Gpu.OTHER and rows <= _ADRENO_IMAGE_ROWS:
            return None
        return rows * _CHANNELS_PER_SLICE, layer.channels[1]


_SLICES = {Gpu.ADRENO_6XX: 32, Gpu.ADRENO_7XX: 32, Gpu.OTHER: 16}

LITERT_DELEGATE = RuntimeRule(
    name="litert",
    min_slices=_SLICES,
    min_tiles={Gpu.ADRENO_6XX: 128, Gpu.ADRENO_7XX: 64, Gpu.OTHER: 32},
    counts_batch=False,
    source="google-ai-edge/LiteRT@f674577 tflite/delegates/gpu/common/selectors/operation_selector.cc",
)
ML_DRIFT = RuntimeRule(
    name="ml-drift",
    min_slices=_SLICES,
    min_tiles={Gpu.ADRENO_6XX: 128, Gpu.ADRENO_7XX: 128, Gpu.OTHER: 32},
    counts_batch=True,
    source="google-ai-edge/ml-drift ml_drift/common/winograd_util.cc",
)
RUNTIME_RULES = {rule.name: rule for rule in (LITERT_DELEGATE, ML_DRIFT)}
