"""Cuts a graph into parts that run one after the other, where the fewest bytes cross.

    inputs ─▶ part 1 ─▶ crossing values ─▶ part 2 ─▶ … ─▶ outputs        any part may also take the original inputs

A phone may refuse one large file: an app's memory, a file format's 2 GB, a compiler's patience. The cuts minimise the
bytes that cross all of them, under the condition that no part has more than `SLACK` times its share of the weights.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_structure

from sdmobile.errors import UnsupportedError
from sdmobile.exporters.chunk_contracts import SLACK
from sdmobile.rewrites.operators import arguments
from sdmobile.rewrites.program import Draft

_INTERFACE_BYTES = 4  # crossing values are float32 at the files' interfaces, as Apple's own chunks have them


@dataclass(frozen=True)
class Part:
    """One part of a program.

    Args:
        program: what it computes.
        inputs: names of original inputs and of crossing values that it takes, in order.
        outputs: names of crossing values or of the program's outputs that it returns, in order.
        weight_bytes: bytes of the float32 weights that it holds, also of those that are yet to come.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight_bytes: int


@dataclass(frozen=True)
class _Step:
    """What is known at one operator of the graph: values alive after it, and weights used up to it."""

    index: int
    crossing_bytes: int
    weight_bytes: int


def split(program: ExportedProgram, parts: int) -> tuple[Part, ...]:
    """Returns a program as a chain of parts.

    Args:
        program: a rewritten program.
        parts: how many, at least 2.

    Raises:
        UnsupportedError: the graph has no such cuts.
    """
    draft = Draft(program)
    nodes = [node for node in draft.graph.nodes if node.op == "call_function"]
    weights = draft.weights()
    cuts = choose_cuts(_steps(nodes, weights), parts)
    bounds = [0, *(cut + 1 for cut in cuts), len(nodes)]
    pieces = [nodes[a:b] for a, b in pairwise(bounds)]
    return tuple(_part(program, piece, weights) for piece in pieces)


def _steps(nodes: Sequence[Node], weights: dict[Node, torch.Tensor]) -> list[_Step]:
    """Returns what crosses after each operator; places inside a tuple of results, or `_torn`, are left out."""
    last = {source: i for i, node in enumerate(nodes) for source in node.all_input_nodes}
    final = len(nodes)
    for node in nodes:
        if any(user.op == "output" for user in node.users):
            last[node] = final
    seen: set[Node] = set()
    alive: dict[Node, int] = {}
    steps, used, torn = [], 0, _torn(nodes)
    for index, node in enumerate(nodes):
        for source in node.all_input_nodes:
            if source in weights and source not in seen:
                seen.add(source)
                used += weights[source].numel() * 4
        alive[node] = last.get(node, index)
        alive = {value: end for value, end in alive.items() if end > index}
        if index not in torn and all(isinstance(value.meta["val"], torch.Tensor) for value in alive):
            crossing = sum(value.meta["val"].numel() * _INTERFACE_BYTES for value in alive)
            steps.append(_Step(index, crossing, used))
    return steps


def _torn(nodes: Sequence[Node]) -> set[int]:
    """Returns the operators after which no cut may be: a later one changes a value in place that was made before.

    A part gets a copy of what crosses, so that the value, its views and all that changes them belong in one part.
    """
    index = {node: i for i, node in enumerate(nodes)}
    owner: dict[Node, Node] = {}  # of a view: whose memory it is
    torn: set[int] = set()
    for position, node in enumerate(nodes):
        schema = getattr(node.target, "_schema", None)
        shared = [a for a in schema.arguments if a.alias_info is not None] if schema is not None else []
        for argument in shared:
            operand = arguments(node)[argument.name]
            if not isinstance(operand, Node):
                continue
            source = owner.get(operand, operand)
            if argument.alias_info.is_write:
                torn.update(range(index[source], position) if source in index else range(len(nodes)))
            owner[node] = source
        if node.target is operator.getitem and isinstance(node.args[0], Node):
            owner[node] = owner.get(node.args[0], node.args[0])
    return torn


def choose_cuts(steps: Sequence[_Step], parts: int) -> tuple[int, ...]:
    """Returns the operators after which to cut: least crossing bytes in all, no part above its share of weights.

    Args:
        steps: what crosses after each operator, in order.
        parts: how many parts.

    Raises:
        UnsupportedError: too few places, or weights that no cut can spread so evenly.
    """
    total = steps[-1].weight_bytes if steps else 0
    limit = SLACK * total / parts
    candidates = [s for s in steps[:-1] if 0 < s.weight_bytes < total]
    best: dict[int, tuple[int, tuple[int, ...]]] = {-1: (0, ())}
    for _ in range(parts - 1):
        best = _extended(best, candidates, limit)
    complete = [
        (cost, chosen) for last, (cost, chosen) in best.items() if total - candidates[last].weight_bytes <= limit
    ]
    if not complete:
        raise UnsupportedError(
            f"a component cut into {parts} must have parts of at most {SLACK:g} times their share of the weights",
            "its layers cannot be spread so evenly",
            "Use fewer --chunks",
        )
    return min(complete)[1]


def _extended(
    best: dict[int, tuple[int, tuple[int, ...]]], candidates: Sequence[_Step], limit: float
) -> dict[int, tuple[int, tuple[int, ...]]]:
    """Returns, for each place of the next cut, the cheapest chain of cuts that ends there.

    Weights grow from place to place, so that the chains that a cut can go on from lie in a window that moves along.
    """
    longer: dict[int, tuple[int, tuple[int, ...]]] = {}
    window: deque[int] = (
        deque()
    )  # places where chains end, the cheapest first; of later ones, those that may come to it
    for place, step in enumerate(candidates):
        if place - 1 in best:
            while window and best[window[-1]] > best[place - 1]:
                window.pop()
            window.append(place - 1)
        while window and step.weight_bytes - (candidates[window[0]].weight_bytes if window[0] >= 0 else 0) > limit:
            window.popleft()
        if window:
            cost, chosen = best[window[0]]
            longer[place] = (cost + step.crossing_bytes, (*chosen, step.index))
    return longer


def _part(program: ExportedProgram, nodes: Sequence[Node], weights: dict[Node, torch.Tensor]) -> Part:
    """Returns the program of some consecutive operators."""
    inside = set(nodes)
    sources = list(dict.fromkeys(s for node in nodes for s in node.all_input_nodes if s not in inside))
    held = [source for source in sources if source in weights]
    regions = [source for source in sources if source.op == "get_attr"]  # graphs of their own, as those of autocast
    taken = [source for source in sources if source not in weights and source.op != "get_attr"]
    taken.sort(key=lambda node: node.op != "placeholder")  # original inputs first
    results = [node for node in nodes if any(user not in inside for user in node.users)]
    graph, mapped = Graph(), {}
    for source in (*held, *taken):
        mapped[source] = graph.placeholder(source.name)
        mapped[source].meta = dict(source.meta) if source in weights else {"val": _plain(source)}
        mapped[source].name = source.name
    for node in (*regions, *nodes):
        mapped[node] = graph.node_copy(node, lambda n: mapped[n])
        mapped[node].name = node.name
    graph.output(tuple(mapped[node] for node in results))
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    signature = ExportGraphSignature(
        [
            *(specs[node.name] for node in held),
            *(InputSpec(InputKind.USER_INPUT, TensorArgument(name=node.name), None) for node in taken),
        ],
        [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(name=node.name), None) for node in results],
    )
    tensors = {str(specs[node.name].target): weights[node] for node in held}
    piece = _program(program, GraphModule(program.graph_module, graph), signature, tensors, taken)
    size = sum(tensor.numel() * 4 for tensor in tensors.values())
    return Part(piece, tuple(n.name for n in taken), tuple(n.name for n in results), size)


def _plain(node: Node) -> torch.Tensor:
    """Returns the value of an input of a file: laid out plainly, whatever strides it had inside the whole graph."""
    value = node.meta["val"]
    with value.fake_mode:
        return torch.empty(value.shape, dtype=value.dtype)


def _program(
    program: ExportedProgram,
    root: GraphModule,
    signature: ExportGraphSignature,
    tensors: dict[str, torch.Tensor],
    taken: Sequence[Node],
) -> ExportedProgram:
    """Returns a program that takes and returns flat tuples of tensors."""
    specs = signature.input_specs
    # As torch.export keeps them: a buffer that a checkpoint does not hold is a constant.
    state = {s.target for s in specs if s.kind is InputKind.PARAMETER or (s.kind is InputKind.BUFFER and s.persistent)}
    call = ModuleCallSignature(
        inputs=[],
        outputs=[],
        in_spec=tree_structure((tuple(0 for _ in taken), {})),
        out_spec=tree_structure(tuple(0 for _ in signature.output_specs)),
        forward_arg_names=[node.name for node in taken],
    )
    return ExportedProgram(
        root=root,
        graph=root.graph,
        graph_signature=signature,
        state_dict={name: tensor for name, tensor in tensors.items() if name in state},
        range_constraints=program.range_constraints,
        module_call_graph=[ModuleCallEntry(fqn="", signature=call)],
        example_inputs=(tuple(torch.zeros(n.meta["val"].shape, dtype=n.meta["val"].dtype) for n in taken), {}),
        constants={name: tensor for name, tensor in tensors.items() if name not in state},
        verifiers=program.verifiers,  # captured graphs may hold operators that change a tensor in place
    )
