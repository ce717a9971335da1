"""Evaluates what depends on weights alone, so that a file holds the result and not the computation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch.fx.node import map_arg

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Node

    from sdmobile.rewrites.program import Draft


def fold(draft: Draft, nodes: Iterable[Node], name: str) -> int:
    """Replaces those of `nodes` that depend on weights alone by constants, and returns how many constants came in.

    Args:
        draft: the program under change.
        nodes: candidates; others are left as they are, so that structure and weights stay separable.
        name: prefix of the constants' names, which go on with the name of the weight that they come from.
    """
    weights, constant = draft.weights(), set()
    candidates = set(nodes)
    for node in draft.graph.nodes:
        inputs_constant = all(n in weights or n in constant for n in node.all_input_nodes)
        if node in candidates and inputs_constant and isinstance(node.meta["val"], torch.Tensor):
            constant.add(node)
    kept = [node for node in constant if any(user not in constant for user in node.users)]
    for node in sorted(kept, key=lambda n: n.name):
        origin = _origins(node, weights)
        label = "_".join([name, *(draft.weight_name(n) or n.name for n in origin[:1])]).replace(".", "_")
        value = _evaluate(node, weights, {}).detach().clone().contiguous()
        draft.replace(node, draft.add_constant(label, value))
    return len(kept)


def _evaluate(node: Node, weights: dict[Node, Tensor], known: dict[Node, Tensor]) -> Tensor:
    """Returns a constant node's value; intermediate values live as long as one evaluation."""
    if node in weights:
        return weights[node]
    if node not in known:
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: _evaluate(n, weights, known))
        with torch.no_grad():
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]


def _origins(node: Node, weights: dict[Node, Tensor]) -> list[Node]:
    """Returns the weights that a constant node is computed from, the first operand's first."""
    if node in weights:
        return [node]
    return [origin for inner in node.all_input_nodes for origin in _origins(inner, weights)]
