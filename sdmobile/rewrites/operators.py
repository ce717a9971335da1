"""Reads the arguments of graph nodes by the names and defaults of the operators' schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
