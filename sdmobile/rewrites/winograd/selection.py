"""Which layers are written by Winograd's method, and the three answers per layer for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from sdmobile.device_profiles.runtime_rules.conv_layer import KERNEL, ConvLayer
from sdmobile.device_profiles.runtime_rules.winograd import RUNTIME_RULES, Gpu
from sdmobile.rewrites.winograd.conv import Strips
from sdmobile.rewrites.winograd.transforms import ML_DRIFT, as_array, transforms


@dataclass(frozen=True)
class TileFacts:
    """One row of the table.

    Args:
        tile: m, outputs per axis.
        flops_saving: direct multiplications over Winograd's, 9m² / (m+2)².
        intermediates: elements of the transformed input over those of the input, (m+2)² / m².
        weights: elements of the transformed weights over those of the weights, (m+2)² / 9.
    """

    tile: int
    flops_saving: Fraction
    intermediates: Fraction
    weights: Fraction


def tile_facts(tile: int) -> TileFacts:
    """Returns the exact ratios of an output tile size; the transforms' own operations are not counted."""
    elements, kernel = (tile + KERNEL - 1) ** 2, KERNEL**2
    outputs = tile**2
    return TileFacts(
        tile, Fraction(kernel * outputs, elements), Fraction(elements, outputs), Fraction(elements, kernel)
    )


@dataclass(frozen=True)
class Rounding:
    """Which numbers of a convolution are stored in float16; sums are kept wider throughout.

    Args:
        weights: the weights, transformed ones for Winograd.
        activations: input, transformed input, products and output.
    """

    weights: bool = True
    activations: bool = True


@cache
def error_db(
    tile: int | None, points: str = ML_DRIFT, rounding: Rounding | None = None, channels: int = 320, seed: int = 0
) -> float:
    """Returns the signal-to-noise ratio of one layer in dB, 10·log10(Σy² / Σ(ŷ−y)²), y in float64.

    Input and weights are normally distributed, 32 tiles by 32 output channels: enough that seeds differ by 0.2 dB.

    Args:
        tile: m; None for the direct convolution.
        points: interpolation points, see `transforms`.
        rounding: what is stored in float16, everything by default.
        channels: input channels.
        seed: of the data.
    """
    rng = np.random.default_rng(seed)
    m = tile or 4
    data = rng.standard_normal((channels, m + KERNEL - 1, m + KERNEL - 1, 32))
    kernel = rng.standard_normal((32, channels, KERNEL, KERNEL)) / np.sqrt(KERNEL**2 * channels)
    exact = _direct(data, kernel)
    stored = rounding or Rounding()
    if tile is None:
        rounded = _direct(_store(data, stored.activations), _store(kernel, stored.weights))
    else:
        rounded = _winograd(data, kernel, tile, points, stored)
    noise = _store(rounded, stored.activations) - exact
    return float(10 * np.log10(np.square(exact).sum() / np.square(noise).sum()))


def _store(values: np.ndarray, half: bool) -> np.ndarray:
    return values.astype(np.float16).astype(np.float64) if half else values


def _direct(data: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns the correlation (O, m, m, tiles) of tiles (C, m+2, m+2, tiles) with kernels (O, C, 3, 3)."""
    m = data.shape[1] - KERNEL + 1
    taps = ((r, s) for r in range(KERNEL) for s in range(KERNEL))
    return sum(np.tensordot(kernel[:, :, r, s], data[:, r : r + m, s : s + m], 1) for r, s in taps)  # type: ignore


def _winograd(data: np.ndarray, kernel: np.ndarray, tile: int, points: str, stored: Rounding) -> np.ndarray:
    """Returns the same by Winograd's method, with everything that a kernel would write to memory rounded."""
    matrices = transforms(tile, points)
    a, b, g = (as_array(m) for m in (matrices.output, matrices.data, matrices.kernel))
    u = _store(np.einsum("ar,ocrs,bs->aboc", g, kernel, g, optimize=True), stored.weights)
    v = np.einsum("ai,cijt,bj->abct", b, _store(data, stored.activations), b, optimize=True)
    products = _store(np.matmul(u, _store(v, stored.activations)), stored.activations)
    return np.einsum("ia,abot,jb->oijt", a, products, a, optimize=True)


_FLOAT = 4


@dataclass(frozen=True)
class CpuTime:
    """What a 3×3 convolution costs on a CPU through XNNPACK, directly and by Winograd's method.

        direct    t = a · MACs + w · weight bytes
        Winograd  t = a · products + e_m · (elements in + out) + w · transformed weight bytes

    The constants are fitted to the table in docs/winograd.md (`benchmarks/winograd.py`, one thread of an x86 server
    core with AVX-512), e_m to the larger layers there, whose transforms leave the cache; small layers are up to 15 %
    faster than predicted. A phone's cores have other constants; only the ratio of the two forms is used, and with a
    margin.

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


@dataclass(frozen=True)
class LayerAnswers:
    """What is known of one 3×3 layer with one output tile size.

    Args:
        tile: m.
        chosen_by_runtime: by "rule/gpu", whether the phone's own runtime takes Winograd's method (always F(4×4)).
        float16_db: signal-to-noise ratio with everything stored in float16, simulated for the number of channels.
        float16_weights_db: the same with float16 weights alone, which is what a CPU sees.
        direct_macs, winograd_macs: multiplications; the transforms' own are not counted.
        weight_bytes, winograd_weight_bytes: in float32; half as much in the file.
        direct_ms, winograd_ms: predicted for one thread of the CPU that the constants were measured on.
    """

    tile: int
    chosen_by_runtime: dict[str, bool]
    float16_db: float
    float16_weights_db: float
    direct_macs: int
    winograd_macs: int
    weight_bytes: int
    winograd_weight_bytes: int
    direct_ms: float
    winograd_ms: float

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return asdict(self)


def answers(layer: ConvLayer, tile: int, time: CpuTime | None = None) -> LayerAnswers:
    """Returns the three answers about a layer: who would choose it, what error it adds, what it saves or costs."""
    clock = time or CpuTime()
    chosen = {
        f"{name}/{gpu.value}": rule.objection(layer, gpu) is None for name, rule in RUNTIME_RULES.items() for gpu in Gpu
    }
    return LayerAnswers(
        tile,
        chosen,
        round(error_db(tile, channels=layer.channels[0]), 1),
        round(error_db(tile, channels=layer.channels[0], rounding=Rounding(activations=False)), 1),
        layer.macs,
        layer.products(tile),
        _FLOAT * layer.weights,
        _FLOAT * layer.transformed_weights(tile),
        round(clock.milliseconds(layer, None), 2),
        round(clock.milliseconds(layer, tile), 2),
    )


@dataclass(frozen=True)
class Policy:
    """When an explicit Winograd form is worth it.

    Args:
        tiles: allowed output tiles. F(6×6) was no faster than F(4×4) in any measured layer and rounds more.
        min_speedup: least predicted ratio of direct to Winograd's time.
        weight_growth: additional weight bytes allowed in all, as a fraction of the component's weights.
        spare_bytes: additional weight bytes, in float32, that a component may take whatever its size: one that is small
            beside the UNet does not set the peak of a pipeline.
        time: the constants of the prediction.
        strips: how layers are cut; the weights of a layer are packed once for each of its strips.
    """

    tiles: tuple[int, ...] = (4, 2)
    min_speedup: float = 1.25
    weight_growth: float = 0.25
    spare_bytes: int = 512 << 20
    time: CpuTime = field(default_factory=CpuTime)
    strips: Strips = field(default_factory=Strips)

    def budget(self, weights: int) -> float:
        """Returns how many weights may be added to a component of so many."""
        return max(self.weight_growth * weights, self.spare_bytes / _FLOAT)

    def objection(self, layer: ConvLayer) -> str | None:
        """Returns why a layer is left alone whatever the others take, None if some tile size is predicted to win."""
        shape = layer.shape_objection()
        if shape is not None:
            return shape
        best = max(self._speedup(layer, tile) for tile in self.tiles)
        if best < self.min_speedup:
            sizes = f"{layer.channels[0]}→{layer.channels[1]} channels at {layer.size[0]}×{layer.size[1]}"
            return f"predicted {best:.2f} times as fast ({sizes}); {self.min_speedup:g} is the least that counts"
        return None

    def _speedup(self, layer: ConvLayer, tile: int) -> float:
        return self.time.milliseconds(layer, None) / self.time.milliseconds(layer, tile)

    def _added(self, layer: ConvLayer, tile: int) -> int:
        """Returns how many weights more are in memory."""
        return layer.transformed_weights(tile) * len(self.strips.rows(layer, tile)) - layer.weights

    def options(self, layer: ConvLayer) -> dict[int, tuple[float, int]]:
        """Returns milliseconds saved and weights added by each output tile that is predicted to win."""
        direct = self.time.milliseconds(layer, None)
        return {
            tile: (direct - self.time.milliseconds(layer, tile), self._added(layer, tile))
            for tile in self.tiles
            if self._speedup(layer, tile) >= self.min_speedup
        }


def choose(layers: Sequence[ConvLayer], weights: int, policy: Policy) -> list[int | None]:
    """Returns the output tile of each layer, None for the direct form, within the budget of weights.

    Step by step the change is taken, of one layer to a tile that saves more, that saves the most time per added weight
    and still fits.

    Args:
        layers: all convolutions of a component.
        weights: number of its weights, of all layers.
        policy: budget and tile sizes.
    """
    options = [policy.options(layer) if policy.objection(layer) is None else {} for layer in layers]
    chosen: list[int | None] = [None] * len(layers)
    budget = policy.budget(weights)
    while True:
        steps = [
            (saved / added, added, i, tile)
            for i, choices in enumerate(options)
            for tile, (saved, added) in _better(choices, chosen[i])
            if added <= budget
        ]
        if not steps:
            return chosen
        _, added, i, tile = max(steps)
        chosen[i] = tile
        budget -= added


def _better(choices: dict[int, tuple[float, int]], current: int | None) -> list[tuple[int, tuple[float, int]]]:
    """Returns the tiles that save more than the current one, with what they save and add on top of it."""
    saved, added = choices[current] if current is not None else (0.0, 0)
    return [(tile, (s - saved, max(1, a - added))) for tile, (s, a) in choices.items() if s > saved]
