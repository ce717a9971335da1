"""Applies rules to a captured graph.

    captured program ──▶ for each rule, in order: match ─▶ check ─▶ trace the replacement ─▶ splice ──▶ new program
                                                             └─▶ record why not

A replacement is traced to the same ATen operators that torch.export yields, so every backend takes the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from sdmobile.rewrites.program import copy_graph, rebuild
from sdmobile.rewrites.rule import RewriteRecord, Rule, source_module

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.export.graph_signature import ExportGraphSignature

# What a new node inherits from the node it replaces, so that later records can still name the source module.
_PROVENANCE = ("nn_module_stack", "stack_trace", "torch_fn")


def rewrite(program: ExportedProgram, rules: Sequence[Rule]) -> tuple[ExportedProgram, list[RewriteRecord]]:
    """Returns a program with the rules applied in order, and what each rule did to each node that it matched.

    Args:
        program: a captured program; it is left as it was (the weights are shared).
        rules: the selected rules, in the order of application.
    """
    graph, signature = copy_graph(program)
    tracer = _Tracer()
    records = [record for rule in rules for record in _apply(rule, graph, signature, tracer)]
    return rebuild(program, graph, signature), records


def _apply(rule: Rule, graph: Graph, signature: ExportGraphSignature, tracer: _Tracer) -> list[RewriteRecord]:
    """Applies one rule to every node that it matches."""
    records = []
    for node in rule.matches(graph):
        reason = rule.check(node)
        outcome = "applied" if reason is None else "refused"
        records.append(RewriteRecord(rule.name, rule.exactness, outcome, node.name, source_module(node), reason))
        if reason is None:
            result = _splice(graph, node, tracer.trace(rule, node))
            signature.replace_all_uses(node.name, result.name)
    return records or [RewriteRecord(rule.name, rule.exactness, "unmatched")]


class _Tracer:
    """Traces replacements into graphs of ATen operators; equal calls are traced once."""

    def __init__(self) -> None:
        self._graphs: dict[str, Graph] = {}

    def trace(self, rule: Rule, node: Node) -> Graph:
        """Returns the graph of `rule.replacement` for the node's arguments; its placeholders are the node's tensors."""
        key = f"{rule.name} {_shape_key(node.args)} {_shape_key(node.kwargs)}"
        if key not in self._graphs:
            self._graphs[key] = _trace(rule, node)
        return self._graphs[key]


def _shape_key(value: Any) -> Any:
    """Returns the arguments with every node replaced by its shape and type."""
    return map_arg(value, lambda n: (tuple(n.meta["val"].shape), n.meta["val"].dtype))


def _trace(rule: Rule, node: Node) -> Graph:
    from torch.fx.experimental.proxy_tensor import make_fx

    inputs = node.all_input_nodes

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        by_node = dict(zip(inputs, tensors, strict=True))
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: by_node[n])
        return rule.replacement(*args, **kwargs)

    # pre_dispatch keeps composite operators such as instance_norm whole, as torch.export does.
    return make_fx(call, pre_dispatch=True, tracing_mode="fake")(*(_example(n) for n in inputs)).graph


def _example(node: Node) -> torch.Tensor:
    """Returns a tensor without storage of its own that has the shape and type of the node's value."""
    value = node.meta["val"]
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


def _splice(graph: Graph, node: Node, body: Graph) -> Node:
    """Puts `body` in the place of `node` and returns the node that now carries its value."""
    placeholders = iter(node.all_input_nodes)
    mapped: dict[Node, Node] = {}
    result = node
    with graph.inserting_before(node):
        for inner in body.nodes:
            if inner.op == "placeholder":
                mapped[inner] = next(placeholders)
            elif inner.op == "output":
                result = mapped[inner.args[0]]
            else:
                mapped[inner] = _copy_node(graph, inner, node, mapped)
    node.replace_all_uses_with(result)
    graph.erase_node(node)
    return result


def _copy_node(graph: Graph, inner: Node, replaced: Node, mapped: dict[Node, Node]) -> Node:
    """Copies one node of a traced body into the graph, with the provenance of the node that it replaces."""
    new = graph.node_copy(inner, lambda n: mapped[n])
    mode = replaced.meta["val"].fake_mode
    value = inner.meta["val"]
    with mode:  # the program's own fake tensors, so that later passes see one mode only
        new.meta = {"val": torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")}
    new.meta.update({key: replaced.meta[key] for key in _PROVENANCE if key in replaced.meta})
    return new
