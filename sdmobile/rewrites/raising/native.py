"""Finds the norms that decomposition by torch.export writes with their saved statistics."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from sdmobile.rewrites.operators import arguments
from sdmobile.rewrites.rule import Match

if TYPE_CHECKING:
    from torch.fx import Graph

_aten = torch.ops.aten
_NATIVE = {
    "group_norm": (_aten.native_group_norm.default, {"num_groups": "group"}),
    "layer_norm": (_aten.native_layer_norm.default, {"normalized_shape": "normalized_shape"}),
}


def native_norms(graph: Graph, kind: str) -> Iterator[Match]:
    """Yields the first results of `aten.native_group_norm` or `aten.native_layer_norm`: the normalised values.

    Args:
        graph: where to look.
        kind: "group_norm" or "layer_norm".
    """
    target, renamed = _NATIVE[kind]
    for node in graph.find_nodes(op="call_function", target=target):
        values = arguments(node)
        options = {ours: values[theirs] for ours, theirs in renamed.items()}
        for user in node.users:
            if user.target is operator.getitem and user.args[1] == 0:
                tensors = (values["input"], values["weight"], values["bias"])
                yield Match(user, tensors, {**options, "eps": values["eps"]}, (user, node))
