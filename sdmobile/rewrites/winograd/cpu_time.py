"""What a 3×3 convolution costs on a CPU through XNNPACK, directly and by Winograd's method.

    direct    t = a · MACs + w · weight bytes
    Winograd  t = a · products + e_m · (elements in + out) + w · transformed weight bytes

The constants are fitted to the table in docs/winograd.md (`benchmarks/winograd.py`, one thread of an x86 server core
with AVX-512), e_m to the larger layers there, whose transforms leave the cache; small layers are up to 15 % faster than
predicted. A phone's cores have other constants; only the ratio of the two forms is used, and with a margin.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sdmobile.device_profiles.runtime_rules.conv_layer import ConvLayer


@dataclass(frozen=True)
class CpuTime:
    """The constants of the formula.

    Args:
        ps_per_mac: a, picoseconds.
        ps_per_weight_byte: w, for weights in float32; they are read once per call.
        ps_per_element: e_m by output tile: transforms and the copies between them.
    """

    ps_per_mac: float = 19.0
    ps_per_weight_byte: float = 30.0
    ps_per_element: dict[int, float] = field(default_factory=lambda: {2: 8500.0, 4: 6200.0})

    def milliseconds(self, layer: ConvLayer, tile: int | None) -> float:
        """Returns the predicted time of a layer; tile None is the direct form."""
        if tile is None:
            return 1e-9 * (self.ps_per_mac * layer.macs + self.ps_per_weight_byte * 4 * layer.weights)
        weights = self.ps_per_weight_byte * 4 * layer.transformed_weights(tile)
        return 1e-9 * (self.ps_per_mac * layer.products(tile) + self.ps_per_element[tile] * layer.elements + weights)
