"""What a graph costs by its own structure: operators, multiply-accumulates, memory of intermediates."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_aten = torch.ops.aten
# Operators whose result is the same memory seen differently; they cost neither memory nor time in PyTorch, and a
# converter may still have to copy.
_VIEWS = (
    _aten.view.default,
    _aten.reshape.default,
    _aten.permute.default,
    _aten.transpose.int,
    _aten.t.default,
    _aten.unsqueeze.default,
    _aten.squeeze.default,
    _aten.squeeze.dim,
    _aten.slice.Tensor,
    _aten.select.int,
    _aten.split.Tensor,
    _aten.split_with_sizes.default,
    _aten.chunk.default,
    _aten.expand.default,
    _aten.detach.default,
    _aten.alias.default,
)


@dataclass(frozen=True)
class GraphCost:
    """Facts that follow from a graph and its shapes.

    Args:
        operators: operator nodes by type.
        macs: multiply-accumulates of convolutions and matrix products, attention included.
        peak_bytes: most bytes of intermediate values alive at one node, in the order of the graph; views are free, and
            an attention operator counts as the score and probability matrices of its textbook form.
        largest_bytes: bytes of the largest intermediate value.
        largest: the node that makes it.
        element_bytes: bytes of a floating-point element that the figures are for.
    """

    operators: dict[str, int]
    macs: int
    peak_bytes: int
    largest_bytes: int
    largest: str
    element_bytes: int

    @property
    def operator_count(self) -> int:
        """Number of operator nodes."""
        return sum(self.operators.values())

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return {**asdict(self), "operator_count": self.operator_count}


def cost_of(program: ExportedProgram, element_bytes: int = 2) -> GraphCost:
    """Returns what a program costs.

    Args:
        program: captured or rewritten.
        element_bytes: bytes of a floating-point element: 2 as on a phone, 4 in float32.
    """
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    operators = Counter(str(node.target).removesuffix(".default") for node in nodes if is_operator(node))
    sizes = {node: _bytes(node, element_bytes) for node in nodes}
    largest = max(nodes, key=lambda node: sizes[node])
    macs = sum(macs_of(node) for node in nodes)
    return GraphCost(
        dict(sorted(operators.items())), macs, _peak(nodes, sizes), sizes[largest], largest.name, element_bytes
    )


def is_operator(node: Node) -> bool:
    """Returns whether a node calls an operator; taking one of several results is none."""
    return isinstance(node.target, torch._ops.OpOverload)


def _bytes(node: Node, element_bytes: int) -> int:
    """Returns the bytes of a node's value; 0 for a view, and for a tuple, whose items count themselves."""
    value = node.meta.get("val")
    if _is_view(node) or not isinstance(value, torch.Tensor) or not node.all_input_nodes:
        return 0
    return value.numel() * (element_bytes if value.is_floating_point() else value.element_size())


def _owner(node: Node) -> Node:
    """Returns the node whose memory a view looks at."""
    while _is_view(node) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _is_view(node: Node) -> bool:
    """Returns whether a node looks at the memory of its first input: an item of a split does, of a reduction not."""
    if node.op == "call_function" and not is_operator(node):
        return _is_view(node.all_input_nodes[0])
    return node.target in _VIEWS


def _peak(nodes: list[Node], sizes: dict[Node, int]) -> int:
    """Returns the most bytes alive at once when every value is freed after its last use, views included."""
    last: dict[Node, int] = {}
    for index, node in enumerate(nodes):
        for source in node.all_input_nodes:
            last[_owner(source)] = index
    ends: dict[int, list[Node]] = {}
    for node, index in last.items():
        ends.setdefault(index, []).append(node)
    alive = peak = 0
    for index, node in enumerate(nodes):
        alive += sizes[node]
        peak = max(peak, alive + _hidden(node, sizes[node]))
        alive -= sum(sizes.get(done, 0) for done in ends.get(index, []))
        if node not in last and node.users == {}:
            alive -= sizes[node]
    return peak


def _hidden(node: Node, size: int) -> int:
    """Returns the bytes that exist only inside a node: twice the N×M matrix of attention, scores and probabilities."""
    if node.target is not _aten.scaled_dot_product_attention.default:
        return 0
    out, keys = node.meta["val"], node.args[1].meta["val"]  # type: ignore[union-attr]
    return 2 * size // out.shape[-1] * keys.shape[-2]


def macs_of(node: Node) -> int:
    """Returns a node's multiply-accumulates; 0 for what is neither a convolution nor a matrix product."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
        return 0
    shapes = [tuple(n.meta["val"].shape) for n in node.all_input_nodes if isinstance(n.meta["val"], torch.Tensor)]
    out = node.meta["val"].numel()
    if node.target in (_aten.conv2d.default, _aten.convolution.default, _aten.conv2d.padding, _aten.conv1d.default):
        return out * math.prod(shapes[1][1:])
    if node.target in (_aten.linear.default, _aten.matmul.default, _aten.mm.default, _aten.bmm.default):
        return out * shapes[0][-1]
    if node.target is _aten.addmm.default:
        return out * shapes[1][-1]
    if node.target is _aten.scaled_dot_product_attention.default:
        queries, keys = shapes[0], shapes[min(1, len(shapes) - 1)]
        return math.prod(queries) * keys[-2] + out * keys[-2]
    if node.target is _aten.einsum.default:
        return _einsum_macs(node)
    return 0


def _einsum_macs(node: Node) -> int:
    """Returns the product of the sizes of all letters of a two-operand einsum."""
    equation = str(node.args[0])
    terms = equation.split("->")[0].replace(" ", "").split(",")
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, node.args[1], strict=True):  # type: ignore[arg-type]
        sizes.update(zip(term, operand.meta["val"].shape, strict=True))  # type: ignore[union-attr]
    return math.prod(sizes.values()) if len(terms) > 1 else 0
