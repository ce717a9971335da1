"""How much of a layer is computed at once by Winograd's method."""

from __future__ import annotations

from dataclasses import dataclass

from sdmobile.device_profiles.runtime_rules.conv_layer import KERNEL, ConvLayer

_FLOAT = 4


@dataclass(frozen=True)
class Strips:
    """Cuts a layer into strips of whole rows of tiles.

    Args:
        bytes: wanted size of the transformed input, or output, of one strip: more falls out of a CPU's cache.
        most: at most so many strips. Each costs about 20 operators in the file, and XNNPACK packs the weights anew
            for each.
    """

    bytes: int = 48 << 20
    most: int = 8

    def rows(self, layer: ConvLayer, tile: int) -> list[int]:
        """Returns the number of rows of tiles in each strip of a layer."""
        columns, tile_rows = -(-layer.size[1] // tile), -(-layer.size[0] // tile)
        per_row = _FLOAT * layer.batch * columns * (tile + KERNEL - 1) ** 2 * max(layer.channels)
        count = min(self.most, -(-tile_rows // max(1, self.bytes // per_row)))
        return [tile_rows * (i + 1) // count - tile_rows * i // count for i in range(count)]
