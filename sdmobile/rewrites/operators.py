"""Reads graph nodes: arguments by the names of the operators' schemas, shapes, ancestors, and values of constants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Node


def arguments(node: Node) -> dict[str, Any]:
    """Returns every argument of an operator node by its name in the schema, defaults included.

    Args:
        node: a `call_function` node of an ATen operator.
    """
    schema = node.target._schema  # type: ignore[union-attr]
    present = dict(zip((a.name for a in schema.arguments), node.args, strict=False))
    present.update(node.kwargs)
    return {a.name: present.get(a.name, a.default_value if a.has_default_value() else None) for a in schema.arguments}


def shape_of(node: Node) -> tuple[int, ...]:
    """Returns the shape of the node's value."""
    return tuple(node.meta["val"].shape)


def ancestors(nodes: Iterable[Node]) -> set[Node]:
    """Returns nodes and everything that they are computed from."""
    reached: set[Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += node.all_input_nodes
    return reached


def evaluate(node: Node, known: dict[Node, Tensor]) -> Tensor:
    """Returns a node's value, computed by PyTorch.

    Args:
        node: what to evaluate.
        known: values of all placeholders that it depends on; what is computed on the way is added.
    """
    from torch.fx.node import map_arg

    if node not in known:
        args, kwargs = map_arg((node.args, node.kwargs), lambda inner: evaluate(inner, known))
        known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]
