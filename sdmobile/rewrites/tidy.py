"""Removes nodes that do nothing at inference, so that no backend has to know them.

This is instead of patching a converter: coremltools 9, for one, has no `aten.alias`, which Transformers' CLIP yields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from sdmobile.rewrites.program import Draft

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_aten = torch.ops.aten


def tidy(program: ExportedProgram) -> tuple[ExportedProgram, dict[str, int]]:
    """Returns the program without assertions, aliases, inactive dropouts, casts to the same type, and · 1.

    Args:
        program: a captured program; it is left as it was.

    Returns:
        The program, and how many nodes of each operator went.
    """
    draft = Draft(program)
    removed: dict[str, int] = {}
    for node in list(draft.graph.nodes):
        if node.target is _aten._assert_tensor_metadata.default:
            draft.graph.erase_node(node)
        elif _is_identity(node):
            draft.replace(node, node.args[0])
        else:
            continue
        removed[str(node.target)] = removed.get(str(node.target), 0) + 1
    return draft.finish(), removed


def _is_identity(node: Node) -> bool:
    """Returns whether the node's value is its first input, in inference."""
    if node.target in (_aten.alias.default, _aten.detach.default, _aten.lift_fresh_copy.default):
        return True
    if node.target is _aten.dropout.default:
        return node.args[2] is False
    if node.target in (_aten.mul.Tensor, _aten.div.Tensor):
        # Diffusers divides every residual by an output_scale_factor of 1.
        return isinstance(node.args[1], float | int) and node.args[1] == 1 and _same_type(node)
    if node.target in (_aten.to.dtype, _aten.to.device, _aten.to.dtype_layout, _aten.type_as.default):
        return _same_type(node)
    return False


def _same_type(node: Node) -> bool:
    source = node.args[0]
    return isinstance(source, Node) and source.meta["val"].dtype == node.meta["val"].dtype
