"""What another `GpuOptions.precision` costs on an Android GPU, as bounds: no published measurement is known.

    FP16                  fetches, bytes and sums of 2 bytes                   t = max(c, b) + d, as predicted
    FP16_WITH_FP32_ACCUM  sums of 4 bytes: blocks for waves of 64 items        max(c', b') + d ≤ t ≤ max(2c', b') + d
    FP32                  floats of 4 bytes                                    max(c', b″) + d ≤ t ≤ max(2c', b″) + d

c, b and d are a kernel's compute, memory and launches (`latency`). The one fused kernel for attention is for FP16 alone
(google-ai-edge/ml-drift `kernels/special/conv_softmax_conv.cc`). With float32 sums, the engine adds up four products
in float16, converts their sum and adds it to a float32 one (google-ai-edge/ml-drift `ml_drift/common/precision.h`):
four multiply-adds at twice the float32 rate, a conversion and an addition take no more than twice the time of four
multiply-adds in float16. A fetch of four float32 values takes one or two times as long as one of float16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sdmobile.device_profiles.runtime_rules.kernel import Kernel
from sdmobile.device_profiles.runtime_rules.winograd import Gpu
from sdmobile.formats.graph import FileGraph
from sdmobile.prediction.assess_device import ChosenUnit
from sdmobile.prediction.kernels.google_gpu import ml_drift_kernels
from sdmobile.prediction.latency import features, seconds

Precision = Literal["FP16", "FP16_WITH_FP32_ACCUM", "FP32"]
_FLOAT32, _FLOAT16 = 4, 2
_BOUNDS = (1.0, 2.0)  # least and most that arithmetic and fetches are slowed down by


@dataclass(frozen=True)
class PrecisionCost:
    """Predicted seconds of one call at a precision.

    Args:
        precision: as `GpuOptions` names it.
        least, most: bounds, equal where the model predicts one number.
    """

    precision: Precision
    least: float
    most: float

    def times(self, calls: int) -> PrecisionCost:
        """Returns the cost of several calls."""
        return replace(self, least=calls * self.least, most=calls * self.most)

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object; every number in it is predicted."""
        return {"predicted": True, "least_seconds": self.least, "most_seconds": self.most}


def precision_costs(graphs: Sequence[FileGraph], device: ChosenUnit) -> tuple[PrecisionCost, ...]:
    """Returns the cost of one call of all files at each precision; empty for units that have no choice.

    Args:
        graphs: of the files, which run one after the other.
        device: the device and its unit.
    """
    if device.unit.runtime != "ml-drift" or device.unit.element_bytes != _FLOAT16:
        return ()
    gpu = Gpu(device.unit.gpu or "other")

    def launched(element_bytes: int, half_sums: bool) -> list[Kernel]:
        files = (ml_drift_kernels(one, gpu, element_bytes, device.rules, half_sums=half_sums) for one in graphs)
        return [kernel for kernels in files for kernel in kernels]

    fixed = len(graphs) * device.model.parameters.fixed
    half = _seconds(launched(_FLOAT16, True), _FLOAT16, device, 1.0)
    # Larger blocks fetch less, but what their registers cost is not known: no less than in FP16, then.
    sums, full = launched(_FLOAT16, False), launched(_FLOAT32, False)
    found: dict[Precision, list[float]] = {
        "FP16": [half, half],
        "FP16_WITH_FP32_ACCUM": [max(half, _seconds(sums, _FLOAT16, device, by)) for by in _BOUNDS],
        "FP32": [max(half, _seconds(full, _FLOAT32, device, by)) for by in _BOUNDS],
    }
    return tuple(PrecisionCost(name, *(fixed + bound for bound in bounds)) for name, bounds in found.items())


def _seconds(kernels: Sequence[Kernel], element_bytes: int, device: ChosenUnit, slower: float) -> float:
    """Returns the seconds of kernels whose arithmetic and fetches take `slower` times as long as in float16."""
    rates = device.model.parameters
    slow = replace(rates, efficiency=_divided(rates.efficiency, slower), fetch_rate=_divided(rates.fetch_rate, slower))
    return float(seconds(features(kernels, element_bytes), device.model.peak_macs, slow).sum())


def _divided(rates: Mapping[str, float], by: float) -> dict[str, float]:
    return {category: rate / by for category, rate in rates.items()}


def image_costs(components: Sequence[tuple[int, tuple[PrecisionCost, ...]]]) -> tuple[PrecisionCost, ...]:
    """Returns the cost of an image at each precision; empty where a component has none.

    Args:
        components: calls of each in one image, and what one call costs.
    """
    used = [[one.times(calls) for one in costs] for calls, costs in components if calls]
    if not used or not all(used):
        return ()
    return tuple(
        PrecisionCost(row[0].precision, sum(one.least for one in row), sum(one.most for one in row))
        for row in zip(*used, strict=True)
    )
