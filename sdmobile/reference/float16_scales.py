"""Scales that keep the streams of a component within float16's range, on a phone that computes in float16.

    largest value of each stream ─▶ 2⁻ᵏ for those that come near 65504 ─▶ rescale weights, biases and epsilons
      ─▶ run before and after: the same output

The streams are the family's (`families.streams`). All of them stay below an eighth of the largest float16 number, as
another picture may drive them up further. The file holds the scaled weights, and its record the k of each stream, from
which `validate` scales the checkpoint's weights alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.basics.float16 import MAX_FINITE
from sdmobile.errors import UnsupportedError
from sdmobile.families.streams import rescale
from sdmobile.rewrites.options import FLOAT16_SCALES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdmobile.families.streams import Streams

LIMIT = MAX_FINITE / 8
MOST = 24
"""The largest k: 2²⁴ times float16's range is no network that works."""
SAME = 1e-6  # how far outputs may differ, of the largest: numbers below 2⁻¹²⁶ alone do


@dataclass(frozen=True)
class StreamScale:
    """What was found in one stream.

    Args:
        stream: its name.
        largest: the largest magnitude of its values in the checkpoint.
        exponent: k; its values are multiplied by 2⁻ᵏ.
    """

    stream: str
    largest: float
    exponent: int


@dataclass(frozen=True)
class Float16Scales:
    """The streams of a component that were scaled.

    Args:
        streams: those, in the order of the network.
        largest: the largest magnitude in any stream.
        measured_on: the inputs, in words.
        refused: why a stream that needs it was not scaled.
    """

    streams: tuple[StreamScale, ...] = ()
    largest: float = 0.0
    measured_on: str = ""
    refused: str | None = None

    @property
    def exponents(self) -> dict[str, int]:
        """k by stream."""
        return {scale.stream: scale.exponent for scale in self.streams}

    def to_json(self) -> dict[str, Any]:
        """Returns what a component's record keeps."""
        return {"measured_on": self.measured_on, "streams": [vars(scale) for scale in self.streams]}


def exponents_of(record: Mapping[str, Any]) -> dict[str, int]:
    """Returns the k of each stream that a component's record scales; none where it has nothing of the kind."""
    return {entry["stream"]: entry["exponent"] for entry in (record.get(FLOAT16_SCALES) or {}).get("streams", ())}


def rescale_as(module: nn.Module, streams: Streams, exponents: Mapping[str, int]) -> None:
    """Scales a wrapped component as a record says.

    Raises:
        UnsupportedError: the component has no such stream.
    """
    unknown = sorted(set(exponents) - set(streams.names))
    if unknown:
        raise UnsupportedError(f"{FLOAT16_SCALES} must name streams of the component", ", ".join(unknown)[:200])
    if exponents:
        rescale(module, streams, exponents)


def scales_for(peaks: Mapping[str, float], measured_on: str) -> Float16Scales:
    """Returns the scales that keep all streams within float16's range.

    Args:
        peaks: the largest magnitude in each stream.
        measured_on: the inputs, in words.
    """
    scales = tuple(
        StreamScale(stream, largest, exponent)
        for stream, largest in peaks.items()
        if (exponent := exponent_for(largest)) > 0
    )
    return Float16Scales(scales, max(peaks.values(), default=0.0), measured_on)


def apply_scales(
    module: nn.Module, streams: Streams, scales: Float16Scales, calls: Sequence[tuple[Tensor, ...]]
) -> Float16Scales:
    """Scales a component in place and compares its outputs; where they are others, it is left as it was.

    Args:
        module: a wrapped component in float32.
        streams: of it.
        scales: from `scales_for`.
        calls: inputs, in the file's layout.

    Returns:
        The scales, or none and why.
    """
    if not scales.streams:
        return scales
    before = _outputs(module, calls)
    rescale(module, streams, scales.exponents)
    difference = max(_difference(*pair) for pair in zip(before, _outputs(module, calls), strict=True))
    if difference <= SAME:
        return scales
    rescale(module, streams, {stream: -exponent for stream, exponent in scales.exponents.items()})
    refused = f"the scaled network differs by {difference:.3g} of the largest value"
    return Float16Scales((), scales.largest, scales.measured_on, refused)


def exponent_for(largest: float) -> int:
    """Returns the k that takes a stream's values below `LIMIT`; 0 where it needs none, or where none helps."""
    if not LIMIT < largest < math.inf:
        return 0
    exponent = math.ceil(math.log2(largest / LIMIT))
    return exponent if exponent <= MOST else 0


def _outputs(module: nn.Module, calls: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    import torch

    with torch.no_grad():
        return [module(*inputs) for inputs in calls]


def _difference(before: Tensor, after: Tensor) -> float:
    """Returns the largest difference of two outputs, as a part of the largest value; infinite if not a number."""
    largest = float((after - before).abs().max()) / max(float(before.abs().max()), 1e-30)
    return math.inf if math.isnan(largest) else largest
