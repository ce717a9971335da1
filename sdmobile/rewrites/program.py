"""Copies and rebuilds captured programs, so that a change to a graph makes a new program over the same weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch.export import ExportedProgram
from torch.fx import GraphModule

if TYPE_CHECKING:
    from torch.export.graph_signature import ExportGraphSignature
    from torch.fx import Graph


def copy_graph(program: ExportedProgram) -> tuple[Graph, ExportGraphSignature]:
    """Returns copies of the program's graph and signature that may be changed."""
    graph, signature = copy.deepcopy(program.graph), copy.deepcopy(program.graph_signature)
    for old, new in zip(program.graph.nodes, graph.nodes, strict=True):
        new.name = old.name  # a copy renames an argument called `input`, the signature would not know it any more
    return graph, signature


def rebuild(program: ExportedProgram, graph: Graph, signature: ExportGraphSignature) -> ExportedProgram:
    """Returns a program of the changed graph over the weights of `program`, after removing dead nodes."""
    graph.eliminate_dead_code()
    graph.lint()
    return ExportedProgram(
        root=GraphModule(program.graph_module, graph),
        graph=graph,
        graph_signature=signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
    )
