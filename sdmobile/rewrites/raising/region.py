"""The sub-graph around an anchor: where it begins, what belongs to it, and what it computes."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.fx.node import map_arg

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Graph, Node

_aten = torch.ops.aten

CASTS = (_aten.to.dtype, _aten.to.dtype_layout, _aten._to_copy.default)
RESHAPES = (
    _aten.view.default,
    _aten.reshape.default,
    _aten._unsafe_view.default,
    _aten.unsqueeze.default,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.flatten.using_ints,
    _aten.unflatten.int,
    _aten.as_strided.default,
    _aten.contiguous.default,
    _aten.clone.default,
    _aten.alias.default,
    _aten.detach.default,
    *CASTS,
)
ARITHMETIC = (
    _aten.add.Tensor,
    _aten.add.Scalar,
    _aten.sub.Tensor,
    _aten.sub.Scalar,
    _aten.rsub.Scalar,
    _aten.mul.Tensor,
    _aten.mul.Scalar,
    _aten.div.Tensor,
    _aten.div.Scalar,
    _aten.neg.default,
    _aten.square.default,
    _aten.pow.Tensor_Scalar,
    _aten.reciprocal.default,
    *CASTS,
)
ROOTS = (_aten.sqrt.default, _aten.rsqrt.default)
REDUCTIONS = (
    _aten.mean.dim,
    _aten.sum.dim_IntList,
    _aten.var.dim,
    _aten.var.correction,
    _aten.var_mean.correction,
    _aten.std.dim,
    _aten.std.correction,
    operator.getitem,
)
# A chain of more nodes that all lead to one anchor is no spelling of a single operator.
_LONGEST_CHAIN = 16


@dataclass(frozen=True)
class Region:
    """The nodes that follow from one node by the operations allowed in a search.

    Args:
        start: x, the node that everything follows from.
        nodes: the nodes that follow, in an order in which they can be evaluated.
        constants: nodes that the region needs besides x: weights, maybe reshaped.
    """

    start: Node
    nodes: tuple[Node, ...]
    constants: tuple[Node, ...]

    def evaluate(self, values: Mapping[Node, Tensor]) -> dict[Node, Any]:
        """Returns the value of every node, computed in the type of the given values of x and of the constants."""
        known: dict[Node, Any] = dict(values)
        for node in self.nodes:
            if node.target in CASTS:  # a cast to float32 would hide small differences
                known[node] = known[node.args[0]]  # type: ignore[index]
                continue
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: known[n])
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return known

    def needed(self, root: Node) -> set[Node]:
        """Returns the nodes and constants that the value of `root` depends on, root included, x excluded."""
        needed: set[Node] = set()
        waiting = [root]
        while waiting:
            node = waiting.pop()
            if node not in needed and node is not self.start:
                needed.add(node)
                waiting += [] if node in self.constants else node.all_input_nodes
        return needed

    def followers(self, node: Node) -> list[Node]:
        """Returns the region's nodes that depend on `node`, the node itself first."""
        following = [node]
        for other in self.nodes:
            if other is not node and any(source in following for source in other.all_input_nodes):
                following.append(other)
        return following


@dataclass
class Search:
    """Finds regions in a graph.

    Args:
        graph: where to look.
        allowed: the operators that a region consists of.
    """

    graph: Graph
    allowed: frozenset[Any]
    _dominators: dict[Node, Node | None] = field(default_factory=dict)
    _depth: dict[Node, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.graph.nodes:
            self._enter(node)

    def _enter(self, node: Node) -> None:
        """Notes the last node that every path from an input to `node` goes through; weights do not count."""
        inputs = node.all_input_nodes
        inner = [n for n in inputs if not is_constant(n)] or inputs
        meeting: Node | None = inner[0] if inner else None
        for other in inner[1:]:
            meeting = self._meet(meeting, other)
        self._dominators[node] = meeting
        self._depth[node] = 0 if meeting is None else self._depth[meeting] + 1

    def _meet(self, a: Node | None, b: Node | None) -> Node | None:
        while a is not b:
            if a is None or b is None:
                return None
            if self._depth[a] >= self._depth[b]:
                a = self._dominators[a]
            else:
                b = self._dominators[b]
        return a

    def regions(self, anchor: Node) -> list[Region]:
        """Returns the regions that hold `anchor`, the widest first."""
        regions: list[Region] = []
        start = self._dominators[anchor]
        while start is not None and len(regions) < _LONGEST_CHAIN:
            region = self._grow(start, anchor)
            if region is None:
                break
            regions.append(region)
            start = self._dominators[start]
        return regions[::-1]

    def _grow(self, start: Node, anchor: Node) -> Region | None:
        """Returns what follows from `start`, or None if `anchor` is not among it."""
        region: dict[Node, None] = {}
        constants: dict[Node, None] = {}
        waiting = list(start.users)
        while waiting:
            node = waiting.pop(0)
            if node in region or node.target not in self.allowed:
                continue
            others = [n for n in node.all_input_nodes if n is not start and n not in region]
            if all(is_constant(n, start) for n in others):
                region[node] = None
                constants.update(dict.fromkeys(others))
                waiting += node.users
        return Region(start, tuple(region), tuple(constants)) if anchor in region else None


def is_constant(node: Node, start: Node | None = None) -> bool:
    """Returns whether a node is a placeholder or a reshaped one, other than `start`: not computed on the way from x."""
    while node.op == "call_function" and node.target in RESHAPES and node is not start:
        node = node.all_input_nodes[0]
    return node.op == "placeholder" and node is not start


def plain(node: Node) -> Node:
    """Returns the node that a chain of reshapes of as many elements starts from."""
    while node.op == "call_function" and node.target in RESHAPES:
        source = node.all_input_nodes[0]
        if source.meta["val"].numel() != node.meta["val"].numel():
            break
        node = source
    return node


def anchors_of(graph: Graph, operators: Iterable[Any]) -> list[Node]:
    """Returns the nodes of the operators in graph order."""
    wanted = frozenset(operators)
    return [node for node in graph.nodes if node.op == "call_function" and node.target in wanted]
