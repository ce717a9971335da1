"""Which of the nodes that a match covers a new node does the work of.

A match may cover several modules: attention takes the four projections around it along. What is computed from the
weight of one of them, or with it, is named after that one, so that a file still tells whose weight a constant is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

if TYPE_CHECKING:
    from sdmobile.rewrites.program import Draft
    from sdmobile.rewrites.rule import Match

_aten = torch.ops.aten
_PRODUCTS = (_aten.mul.Tensor, _aten.mul.Scalar)


class Owners:
    """Follows weights through the nodes that come in the place of a match.

    Args:
        draft: the program under change.
        match: what is replaced.
    """

    def __init__(self, draft: Draft, match: Match) -> None:
        self._root = match.root
        self._weights: dict[Node, Node] = {}
        self._layers: dict[Node, Node] = {}
        for node in match.covers:
            for given in node.all_input_nodes:
                if given not in self._weights and draft.weight_name(given) is not None:
                    self._weights[given] = node

    def of(self, new: Node) -> Node:
        """Returns the covered node that a new one belongs to; asked of every new node in graph order.

        That is the one that took its weight; also for what is computed from the weight alone, and for the product of
        such a layer's result and a number, which converters fold into the weight. All else belongs to the root.
        """
        given = new.all_input_nodes
        sources = {self._weights[node] for node in given if node in self._weights}
        if len(sources) == 1:
            owner = sources.pop()
            known = self._weights if all(node in self._weights for node in given) else self._layers
            known[new] = owner
            return owner
        if new.target in _PRODUCTS and not isinstance(new.args[1], Node) and given[0] in self._layers:
            return self._layers.setdefault(new, self._layers[given[0]])
        return self._root
