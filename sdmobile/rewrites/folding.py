"""What depends on weights alone becomes a constant: at once, or, where the weights are yet to come, when they come.

    weights there       W ──W[:h]──▶ constant
    weights to come     W' ──▶ W'[:h], with the expression           fill: W ──expression──▶ constant

A program may be captured and rewritten over fake tensors, which have shapes and no values. Of a large network only the
weights of one part are then ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch.fx import Graph, GraphModule, Node

from sdmobile.rewrites.operators import evaluate
from sdmobile.rewrites.program import Draft

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

Read = Callable[[Collection[str]], Iterator[tuple[str, "Tensor"]]]
"""Yields, one at a time, name and tensor of the weights of some names."""
EXPRESSION = "expression"
"""Key of a placeholder's metadata that holds how its constant is computed."""


@dataclass(frozen=True)
class Expression:
    """How a constant is computed from weights that are yet to come.

    Args:
        graph: from the operands to the constant.
        operands: the name of a weight, a tensor that is there, or another such constant; in the graph's order.
    """

    graph: GraphModule
    operands: tuple[str | Tensor | Expression, ...]

    @cached_property
    def names(self) -> frozenset[str]:
        """The weights that it takes."""
        nested = (one.names for one in self.operands if isinstance(one, Expression))
        return frozenset(one for one in self.operands if isinstance(one, str)).union(*nested)

    def value(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Returns the constant.

        Args:
            weights: by name; those of `names` at least.
        """
        with torch.no_grad():
            return self.graph(*(self._operand(one, weights) for one in self.operands)).clone().contiguous()

    def _operand(self, operand: str | Tensor | Expression, weights: Mapping[str, Tensor]) -> Tensor:
        if isinstance(operand, str):
            return weights[operand]
        return operand.value(weights) if isinstance(operand, Expression) else operand


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
    names = draft.weight_names()
    for node in sorted(kept, key=lambda n: n.name):
        origin = _origins(node, weights)
        label = "_".join([name, *(names.get(n.name) or n.name for n in origin[:1])]).replace(".", "_")
        with torch.no_grad():  # intermediate values live as long as one evaluation
            value = evaluate(node, dict(weights)).clone().contiguous()
        folded = draft.add_constant(label, value)
        weights[folded] = value  # another constant may be computed from this one
        if is_absent(value):
            folded.meta[EXPRESSION] = _expression(node, weights, draft)
        draft.replace(node, folded)
    return len(kept)


def _origins(node: Node, weights: dict[Node, Tensor]) -> list[Node]:
    """Returns the weights that a constant node is computed from, the first operand's first."""
    if node in weights:
        return [node]
    return [origin for inner in node.all_input_nodes for origin in _origins(inner, weights)]


def _expression(root: Node, weights: dict[Node, Tensor], draft: Draft) -> Expression:
    """Returns how a constant node is computed, in a graph of its own."""
    sources = list(dict.fromkeys(_origins(root, weights)))
    graph = Graph()
    mapped = {source: graph.placeholder(source.name) for source in sources}

    def copied(node: Node) -> Node:
        if node not in mapped:
            for inner in node.all_input_nodes:
                copied(inner)
            mapped[node] = graph.node_copy(node, lambda n: mapped[n])
            mapped[node].meta = {}  # fake tensors are of no use in it
        return mapped[node]

    graph.output(copied(root))
    operands = tuple(_operand(source, weights[source], draft) for source in sources)
    return Expression(GraphModule(torch.nn.Module(), graph), operands)


def _operand(source: Node, tensor: Tensor, draft: Draft) -> str | Tensor | Expression:
    if EXPRESSION in source.meta:
        return source.meta[EXPRESSION]
    return draft.target(source) if is_absent(tensor) else tensor


def is_absent(tensor: object) -> bool:
    """Returns whether a weight is yet to come: a fake tensor stands for it."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


def absent(program: ExportedProgram) -> frozenset[str]:
    """Returns the names of a program's weights and constants that are yet to come."""
    tensors = {**program.state_dict, **program.constants}
    return frozenset(name for name, tensor in tensors.items() if is_absent(tensor))


def fill(program: ExportedProgram, read: Read) -> ExportedProgram:
    """Returns a program with its weights, and with the constants that are computed from them.

    Peak memory is that of the weights and constants, and of those weights that some constant still waits for.

    Args:
        program: captured over fake tensors, or a part of such a one; it is left as it was.
        read: gives the weights, by their names in the program, each once.

    Raises:
        RuntimeError: a weight did not come.
    """
    missing = absent(program)
    if not missing:
        return program
    draft = Draft(program)
    waiting: dict[str, Expression] = {}
    for node in draft.weights():
        expression = node.meta.pop(EXPRESSION, None)
        if expression is not None:
            waiting[draft.target(node)] = expression
    plain = missing - waiting.keys()
    came: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in read(plain.union(*(one.names for one in waiting.values()))):
        came[name] = tensor
        if name in plain:
            found[name] = tensor
        for target in [target for target, one in waiting.items() if one.names <= came.keys()]:
            found[target] = waiting.pop(target).value(came)
        needed = frozenset[str]().union(*(one.names for one in waiting.values()))
        came = {name: tensor for name, tensor in came.items() if name in needed}
    if missing != found.keys():
        raise RuntimeError(f"{sorted(missing - found.keys())[0]} of a captured program is no weight of the checkpoint")
    draft.give(found)
    return draft.finish()
