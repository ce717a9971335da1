"""Raises activations written out in primitive operations, found by their one transcendental function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from sdmobile.rewrites.pattern import between
from sdmobile.rewrites.raising.region import ARITHMETIC, Region, Search, anchors_of
from sdmobile.rewrites.rule import Exactness, Match, Rule

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from torch.fx import Graph, Node

_aten = torch.ops.aten
# Constants such as √(2/π) are written with seven digits or more. Different functions differ by 1e-4 or more somewhere.
_TOLERANCE = 1e-6
# Which function of PyTorch a spelling of GELU is, by the function that tells it.
_GELUS = {"none": _aten.erf.default, "tanh": _aten.tanh.default}
_SIGMOIDS = (_aten.sigmoid.default, _aten.exp.default)


def activations(graph: Graph, anchors: tuple[OpOverload, ...], function: Callable[[Tensor], Tensor]) -> Iterator[Match]:
    """Yields what computes an element-wise function of one node.

    Args:
        graph: where to look.
        anchors: operators of which exactly one is in every spelling.
        function: what must come out for any input.
    """
    nodes = anchors_of(graph, anchors)
    search = Search(graph, frozenset((*ARITHMETIC, *anchors))) if nodes else None
    for node in nodes:
        assert search is not None
        for region in search.regions(node):
            root = _root(region, node, function)
            if root is not None:
                yield Match(root, (region.start,), {}, between(root, [region.start]))
                break


def _root(region: Region, anchor: Node, function: Callable[[Tensor], Tensor]) -> Node | None:
    """Returns the last node whose value is the function of the region's start."""
    inside = [n for n in region.nodes if not region.needed(n) & set(region.constants)]
    x = torch.linspace(-12.0, 12.0, 4801, dtype=torch.float64)
    values = Region(region.start, tuple(inside), ()).evaluate({region.start: x})
    expected, shape = function(x), region.start.meta["val"].shape
    equal = [
        n
        for n in region.followers(anchor)
        if n in inside and n.meta["val"].shape == shape and (values[n] - expected).abs().max() <= _TOLERANCE
    ]
    return equal[-1] if equal else None


class RaiseGelu(Rule):
    """Writes `aten.gelu` for either of its equations; the quick GELU x·σ(1.702·x) of OpenAI's CLIP is neither.

        gelu(x) = x/2 · (1 + erf(x/√2))        or, approximately,        x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))

    The picture is one spelling of many.

    Captured:
        y = mul(mul(x, 0.5), add(erf(div(x, √2)), 1))                   (N, S, C)

    Rewritten:
        y = gelu(x, "none")                                             (N, S, C)
    """

    name = "raise_gelu"
    title = "GELU written out in primitive operations becomes one operator"
    source = "Hendrycks and Gimpel 2016, section 2; each site is compared with it in float64"
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 100.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        return [
            replace(match, options={"approximate": approximate})
            for approximate, anchor in _GELUS.items()
            for match in activations(graph, (anchor,), partial(gelu, approximate=approximate))
        ]

    def replacement(self, x: Tensor, *, approximate: str) -> Tensor:
        return gelu(x, approximate=approximate)


class RaiseSilu(Rule):
    """Writes `aten.silu` for x times its sigmoid, however the sigmoid is written; σ(1.702·x)·x is another function.

        silu(x) = x · σ(x) = x / (1 + e^−x)

    The picture is one spelling of many.

    Captured:
        y = mul(x, sigmoid(x))                                          (N, S, C)

    Rewritten:
        y = silu(x)                                                     (N, S, C)
    """

    name = "raise_silu"
    title = "SiLU written out in primitive operations becomes one operator"
    source = "Elfwing, Uchibe and Doya 2017, equation 8; each site is compared with it in float64"
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 100.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        return list(activations(graph, _SIGMOIDS, silu))

    def replacement(self, x: Tensor) -> Tensor:
        return silu(x)
