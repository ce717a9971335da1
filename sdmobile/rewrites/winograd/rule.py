"""The rule that writes 3×3 convolutions by Winograd's method where the runtime has none of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from sdmobile.device_profiles.runtime_rules.conv_layer import ConvLayer
from sdmobile.device_profiles.runtime_rules.winograd import RUNTIME_RULES, Gpu
from sdmobile.rewrites.rule import Exactness, Match, OperatorRule
from sdmobile.rewrites.winograd.conv import winograd_conv2d
from sdmobile.rewrites.winograd.selection import Policy, answers, choose

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Graph

Sizes = int | Sequence[int]


@dataclass(frozen=True)
class WinogradConv(OperatorRule):
    """Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A for every tile; U = G g Gᵀ is folded into the file.

    Which layers take it, and with which tile size, is decided over the whole graph: the weights grow by (m+2)²/9, and a
    budget limits that. In the picture h = H/m and w = W/m count the tiles, n = m + 2, and padding is 1; rows of more
    than 24 tiles and strips of a large layer take more operators.

    Captured:
        y = conv2d(x, g, b, padding=1)                                  (N, O, H, W), of g (O, C, 3, 3)

    Rewritten:
        r = matmul(Bᵀ, reshape(permute(x)))                             (N, n·h, W·C)
        d = matmul(Bᵀ, reshape(r))                                      (N·n·h, n·w, C)
        t = reshape(transpose(reshape(d), 1, 2))                        (N, h, w, n²·C)
        p = conv2d(permute(t), U, b, groups=n²)                         (N, n²·O, h, w), of U (n²·O, C, 1, 1)
        z = matmul(Aᵀ ⊗ Aᵀ, reshape(permute(p)))                        (N·h·w, m², O)
        y = permute(reshape(transpose(reshape(z), 1, 2)))               (N, O, H, W)

    Args:
        policy: tile sizes, least speedup, budget of weights, strips.
        runtime: the rule of a GPU runtime that has Winograd kernels of its own ("litert", "ml-drift"): then no layer is
            changed, and the record says what the runtime will choose. None for a runtime without, such as XNNPACK.
        gpu: the GPU of that runtime.
    """

    name: ClassVar[str] = "winograd_conv"
    title: ClassVar[str] = "3×3 convolutions by Winograd's method, for runtimes without one of their own"
    source: ClassVar[str] = "2304.11267 section 3.3; Lavin and Gray 2015; own measurement, docs/winograd.md"
    exactness: ClassVar[Exactness] = Exactness.UP_TO_ROUNDING
    bound_db: ClassVar[float] = 100.0
    folds: ClassVar[bool] = True
    selective: ClassVar[bool] = True
    operator: ClassVar = torch.ops.aten.conv2d.default

    policy: Policy = field(default_factory=Policy)
    runtime: str | None = None
    gpu: Gpu = Gpu.OTHER

    def matches(self, graph: Graph) -> Iterable[Match]:
        convolutions = list(super().matches(graph))
        static = [m for m in convolutions if obstacle(m) is None]
        layers = [layer_of(m) for m in static]
        tiles = choose(layers, _weights(graph), self.policy)
        chosen = {m.root: t for m, t in zip(static, tiles, strict=True)}
        return [self._planned(m, chosen.get(m.root)) for m in convolutions]

    def _planned(self, match: Match, tile: int | None) -> Match:
        """Returns the match with the choice for it, and the convolution's own options, in its options."""
        return replace(match, options={**match.options, "tile": tile})

    def check(self, match: Match) -> str | None:
        nothing = obstacle(match)
        if nothing is not None:
            return nothing
        layer = layer_of(match)
        if self.runtime is not None:
            objection = RUNTIME_RULES[self.runtime].objection(layer, self.gpu)
            return f"left to the runtime, which computes it {_how(objection)}"
        objection = self.policy.objection(layer)
        if objection is None and match.options["tile"] is None:
            growth = min(added for _, added in self.policy.options(layer).values())
            budget = f"{self.policy.weight_growth:.0%} of the component or {self.policy.spare_bytes / 1e6:.0f} MB"
            objection = f"{growth * 4 / 1e6:.0f} MB of weights more, beyond what is left of {budget}"
        return objection

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
        tile: int,
    ) -> Tensor:
        """Returns the convolution of the input, (N, C, H, W); `check` has refused other strides, dilations and groups.

        Args:
            input: x, (N, C, H, W).
            weight: g, (O, C, 3, 3).
            bias: (O,).
            stride, dilation: 1 along both axes.
            padding: rows and columns of zeros on each side.
            groups: 1.
            tile: m, which `matches` has chosen.
        """
        return winograd_conv2d(input, weight, bias, tile=tile, padding=_pair(padding), strips=self.policy.strips)

    def details(self, match: Match) -> dict[str, Any]:
        if obstacle(match) is not None or layer_of(match).shape_objection() is not None:
            return {}
        return answers(layer_of(match), match.options["tile"] or max(self.policy.tiles), self.policy.time).to_json()


def layer_of(match: Match) -> ConvLayer:
    """Returns the facts of a matched `aten.conv2d`."""
    options, weight = match.options, match.shape(1)
    n, o, h, w = match.root.meta["val"].shape
    return ConvLayer(
        batch=n,
        channels=(match.shape(0)[1], o),
        size=(h, w),
        kernel=(weight[2], weight[3]),
        stride=_pair(options["stride"]),
        dilation=_pair(options["dilation"]),
        padding=_pair(options["padding"]),
        groups=options["groups"],
    )


def obstacle(match: Match) -> str | None:
    """Returns why nothing can be said about a matched convolution at all, None if something can."""
    x, weight = match.tensors[0], match.tensors[1]
    assert x is not None
    assert weight is not None
    value = x.meta["val"]
    if value.ndim != 4 or any(not isinstance(size, int) for size in value.shape):
        return f"the input's shape is {tuple(value.shape)}; the rule needs four fixed sizes"
    if value.dtype != torch.float32:
        return f"the input is {str(value.dtype).removeprefix('torch.')}; the rule is for float32"
    if weight.op not in ("placeholder", "get_attr"):
        return "the weight is computed at run time; its transform could not be stored"
    return None


def _how(objection: str | None) -> str:
    return "by Winograd's method itself" if objection is None else f"directly: {objection}"


def _weights(graph: Graph) -> int:
    """Returns the number of weights of a graph; its few inputs are counted too, which does not matter."""
    return sum(prod(node.meta["val"].shape) for node in graph.find_nodes(op="placeholder"))


def _pair(value: Sizes) -> tuple[int, int]:
    """Returns an option of a convolution, given for both axes at once or for each, for each axis."""
    first, *rest = [value] if isinstance(value, int) else list(value)
    return int(first), int(rest[0] if rest else first)
