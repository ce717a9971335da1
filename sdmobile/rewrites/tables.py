"""Tables that a network computes from nothing but numbers of its own become constants: rotations, buckets of distances.

    cos, sin of (positions × frequencies), in float64     ─▶  two constants
    buckets of |i − j|, in integers and a logarithm       ─▶  one constant

They depend on no input, and phones have no float64, no complex numbers, and no magnitude of an integer. Everything else
that depends on no input is left alone: converters fold it as it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdmobile.rewrites.folding import fold
from sdmobile.rewrites.operators import ancestors
from sdmobile.rewrites.program import Draft
from sdmobile.rewrites.raising.region import RESHAPES

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

_aten = torch.ops.aten
_WIDE = (torch.float64, torch.complex64, torch.complex128)
_WAVES = (_aten.cos.default, _aten.sin.default)
_EXPANDING = (*RESHAPES, _aten.expand.default, _aten.permute.default, _aten.transpose.int)


def fold_tables(program: ExportedProgram) -> tuple[ExportedProgram, int]:
    """Returns a program with its tables as constants, and how many those are.

    Args:
        program: a captured program; it is left as it was.
    """
    draft = Draft(program)
    own = _own_values(draft)
    telling = [node for node in own if _tells(node)]
    if not telling:
        return program, 0
    tables = [node for node in own if not ancestors([node]).isdisjoint(telling)]
    count = fold(draft, _without_shapes(ancestors(tables).intersection(own)), "table")
    return draft.finish(), count


def _own_values(draft: Draft) -> list[Node]:
    """Returns the operators that depend on buffers and constants alone, or on nothing; a parameter is no table."""
    parameters = {spec.arg.name for spec in draft.signature.input_specs if "PARAMETER" in spec.kind.name}
    own = {node for node in draft.weights() if node.name not in parameters}
    found: list[Node] = []
    for node in draft.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor) and all(n in own for n in inputs):
            own.add(node)
            found.append(node)
    return found


def _tells(node: Node) -> bool:
    """Returns whether a phone's converter stumbles over an operator, or a phone would compute it imprecisely."""
    value = node.meta["val"]
    if value.dtype in _WIDE or node.target in _WAVES:
        return True
    return node.target is _aten.abs.default and not value.is_floating_point()


def _without_shapes(nodes: set[Node]) -> set[Node]:
    """Returns the nodes without those at the end that only give a table another shape: one constant serves all."""
    left = set(nodes)
    while True:
        ends = {n for n in left if n.target in _EXPANDING and _plain(n) and left.isdisjoint(n.users)}
        if not ends:
            return left
        left -= ends


def _plain(node: Node) -> bool:
    """Returns whether a node leaves the type of its operand, which phones have."""
    before, after = node.all_input_nodes[0].meta["val"].dtype, node.meta["val"].dtype
    return before == after and after not in _WIDE
