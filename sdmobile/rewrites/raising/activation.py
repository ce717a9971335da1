"""Finds activations written out in primitive operations, by their one transcendental function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdmobile.rewrites.pattern import between
from sdmobile.rewrites.raising.region import ARITHMETIC, Region, Search, telling_nodes
from sdmobile.rewrites.rule import Match

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from torch.fx import Graph, Node

_aten = torch.ops.aten
# Constants such as √(2/π) are written with seven digits or more. Different functions differ by 1e-4 or more somewhere.
_TOLERANCE = 1e-6


def activations(graph: Graph, telling: tuple[OpOverload, ...], function: Callable[[Tensor], Tensor]) -> Iterator[Match]:
    """Yields what computes an element-wise function of one node.

    Args:
        graph: where to look.
        telling: operators of which exactly one is in every spelling.
        function: what must come out for any input.
    """
    nodes = telling_nodes(graph, telling)
    search = Search(graph, frozenset((*ARITHMETIC, *telling))) if nodes else None
    for node in nodes:
        assert search is not None
        for region in search.regions(node):
            root = _root(region, node, function)
            if root is not None:
                yield Match(root, (region.start,), {}, between(root, [region.start]))
                break


def _root(region: Region, telling: Node, function: Callable[[Tensor], Tensor]) -> Node | None:
    """Returns the last node whose value is the function of the region's start."""
    inside = [n for n in region.nodes if not region.needed(n) & set(region.constants)]
    x = torch.linspace(-12.0, 12.0, 4801, dtype=torch.float64)
    values = Region(region.start, tuple(inside), ()).evaluate({region.start: x})
    expected, shape = function(x), region.start.meta["val"].shape
    found = [
        n
        for n in region.followers(telling)
        if n in inside and n.meta["val"].shape == shape and (values[n] - expected).abs().max() <= _TOLERANCE
    ]
    return found[-1] if found else None
