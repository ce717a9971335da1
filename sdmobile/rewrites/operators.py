"""Reads graph nodes: arguments by the names of the operators' schemas, shapes, ancestors, and values of constants."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
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
    """Returns a node's value, computed by PyTorch; functions such as cos are rounded from float64.

    PyTorch's own float32 functions differ in their last bits from one processor to another, and files that hold tables
    of them would.

    Args:
        node: what to evaluate.
        known: values of all placeholders that it depends on; what is computed on the way is added.
    """
    from torch.fx.node import map_arg

    if node not in known:
        args, kwargs = map_arg((node.args, node.kwargs), lambda inner: evaluate(inner, known))
        target: Any = node.target
        known[node] = _rounded(target, args) if _is_curve(node) else target(*args, **kwargs)
    return known[node]


@cache
def _curves() -> frozenset[Any]:
    """Returns the operators whose results no standard fixes to the last bit."""
    import torch

    aten = torch.ops.aten
    powers = (aten.pow.Tensor_Scalar, aten.pow.Scalar, aten.pow.Tensor_Tensor)
    return frozenset((aten.exp.default, aten.log.default, aten.sin.default, aten.cos.default, *powers))


def _is_curve(node: Node) -> bool:
    import torch

    return node.target in _curves() and getattr(node.meta.get("val"), "dtype", None) == torch.float32


def _rounded(function: Any, args: tuple[Any, ...]) -> Tensor:
    """Returns a function of float32 numbers, computed in float64."""
    import torch

    return function(*(one.double() if isinstance(one, torch.Tensor) else one for one in args)).float()
