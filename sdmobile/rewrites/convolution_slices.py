"""Convolutions whose transformed weights exceed a texture, as sums over slices of their input channels.

y = Σᵢ gᵢ ∗ xᵢ + b        x = [x₁, x₂, …], g = [g₁, g₂, …] along the input channels
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

import torch
from torch import Tensor

from sdmobile.device_profiles.runtime_rules.winograd import RUNTIME_RULES, Gpu
from sdmobile.rewrites.rule import Exactness, Match, OperatorRule
from sdmobile.rewrites.winograd.rule import Sizes, layer_of, obstacle

_SLICE = 4  # channels that the runtime keeps together


@dataclass(frozen=True)
class ConvolutionSlices(OperatorRule):
    """Cuts a 3×3 convolution along its input channels into as few slices as a texture holds transformed.

    ML Drift transforms the weights of large 3×3 convolutions for Winograd's method. Through WebGPU they are textures of
    (m+2)² · ⌈C/4⌉ rows, and a device has a largest number of rows; beyond it the file does not run. Each slice is
    transformed by itself. The sum has the convolution's multiplications and one addition per output more.

    Captured:
        y = conv2d(x, g, b, padding=1)                                  (N, O, H, W), of g (O, C, 3, 3)

    Rewritten:
        s, t = split_with_sizes(x, [D, E], 1)                           (N, D, H, W) and (N, E, H, W)
        y = add(conv2d(s, g₁, b, padding=1), conv2d(t, g₂, padding=1))  (N, O, H, W), of g₁ (O, D, 3, 3)

    Args:
        texture_rows: most rows of a texture.
        runtime: whose rule says which convolutions are transformed, "ml-drift".
        gpu: the GPU of that runtime.
    """

    name: ClassVar[str] = "convolution_slices"
    title: ClassVar[str] = "3×3 convolutions in slices of input channels whose transformed weights a texture holds"
    source: ClassVar[str] = (
        "own check with LiteRT.js: 960 to 640 channels at 32×32 fail to run whole, docs/gpu-check.md"
    )
    exactness: ClassVar[Exactness] = Exactness.UP_TO_ROUNDING
    bound_db: ClassVar[float] = 110.0
    folds: ClassVar[bool] = True
    selective: ClassVar[bool] = True
    operator: ClassVar = torch.ops.aten.conv2d.default

    texture_rows: int
    runtime: str = "ml-drift"
    gpu: Gpu = Gpu.OTHER

    def check(self, match: Match) -> str | None:
        reason = obstacle(match)
        if reason is not None:
            return reason
        layer = layer_of(match)
        rule = RUNTIME_RULES[self.runtime]
        direct = rule.objection(layer, self.gpu)
        if direct is not None:
            return f"the runtime computes it directly: {direct}"
        rows = rule.texture_rows(layer.channels[0])
        return None if rows > self.texture_rows else f"{rows} rows of transformed weights; {self.texture_rows} fit"

    def replacement(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: Sizes,
        padding: Sizes,
        dilation: Sizes,
        groups: int,
    ) -> Tensor:
        sizes = self.sizes(weight.shape[1])
        result, first = None, 0
        for part, size in zip(input.split(sizes, 1), sizes, strict=True):
            kernel, offset = weight[:, first : first + size], bias if result is None else None
            one = torch.conv2d(part, kernel, offset, stride, padding, dilation, groups)  # type: ignore[arg-type]
            result, first = one if result is None else result + one, first + size
        assert result is not None
        return result

    def sizes(self, channels: int) -> list[int]:
        """Returns the channels of each slice: as few slices as fit, nearly equal, all but the last of whole fours."""
        groups = ceil(channels / _SLICE)
        per_group = RUNTIME_RULES[self.runtime].texture_rows(_SLICE)
        count = ceil(groups / (self.texture_rows // per_group))
        ends = [min(channels, _SLICE * (groups * (i + 1) // count)) for i in range(count)]
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]

    def details(self, match: Match) -> dict[str, Any]:
        return {"slices": self.sizes(match.shape(1)[1])} if self.check(match) is None else {}
