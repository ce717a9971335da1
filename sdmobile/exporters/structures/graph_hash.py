"""One hash of a rewritten graph over weights that are yet to come: what a lowering is given, but for the weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Graph

_RANDOM = re.compile(r"\b[0-9a-f]{32}\b")


def graph_hash(programs: Iterable[ExportedProgram]) -> str:
    """Returns the SHA-256 of operators, arguments, shapes and constants of programs; the files follow from it.

    Args:
        programs: rewritten, one per file; weights are fake tensors, all else is real.
    """
    digest = hashlib.sha256()
    for program in programs:
        _add_graph(digest, program.graph)
        for spec in (*program.graph_signature.input_specs, *program.graph_signature.output_specs):
            digest.update(f"{spec}\n".encode())
        for name, tensor in sorted({**program.state_dict, **program.constants}.items()):
            digest.update(f"{name} {_content(tensor)}\n".encode())
        for name, module in sorted(program.graph_module.named_children()):
            graph = getattr(module, "graph", None)
            digest.update(name.encode())
            if graph is not None:
                _add_graph(digest, graph)
    return digest.hexdigest()


def _add_graph(digest: Any, graph: Graph) -> None:
    from sdmobile.rewrites.folding import EXPRESSION
    from sdmobile.rewrites.rule import source_module

    marks: dict[str, str] = {}  # identities of composites are drawn at random
    for node in graph.nodes:
        value = node.meta.get("val")
        shape = f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
        line = f"{node.op} {node.name} {node.target} {node.args} {node.kwargs} {shape} {source_module(node)}\n"
        digest.update(_RANDOM.sub(lambda match: marks.setdefault(match[0], f"mark {len(marks)}"), line).encode())
        if (expression := node.meta.get(EXPRESSION)) is not None:
            _add_expression(digest, expression)


def _add_expression(digest: Any, expression: Any) -> None:
    for node in expression.graph.graph.nodes:
        digest.update(f"{node.op} {node.name} {node.target} {node.args} {node.kwargs}\n".encode())
    for operand in expression.operands:
        if hasattr(operand, "operands"):
            _add_expression(digest, operand)
        else:
            digest.update(f"{operand if isinstance(operand, str) else _content(operand)}\n".encode())


def _content(tensor: Any) -> str:
    """Returns the values of a tensor as a hash; of one that is yet to come, shape and type."""
    from sdmobile.rewrites.folding import is_absent

    kind = f"{tuple(getattr(tensor, 'shape', ()))} {getattr(tensor, 'dtype', type(tensor).__name__)}"
    if is_absent(tensor) or not hasattr(tensor, "detach"):
        return kind
    values = tensor.detach().contiguous().reshape(-1).cpu().numpy()
    return f"{kind} {hashlib.sha256(values.tobytes()).hexdigest()}"
