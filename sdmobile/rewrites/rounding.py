"""Runs a graph with every value rounded to float16: what a phone's precision does to a form, before any conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_map

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

_TRIGONOMETRIC = (torch.ops.aten.sin.default, torch.ops.aten.cos.default)


class _Rounded(Interpreter):
    """Rounds the result of every node, weights included, and computes each operator in float32."""

    def __init__(self, module: torch.fx.GraphModule, exact: set[Node]) -> None:
        super().__init__(module)
        self._exact = exact

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        return value if n in self._exact else tree_map(_round, value)


def _round(value: Any) -> Any:
    """Returns a floating-point tensor rounded to float16 and back; anything else as it is."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    return value.half().to(value.dtype)


def run_rounded(
    program: ExportedProgram, inputs: tuple[Tensor, ...], exact_sinusoids: bool = False
) -> tuple[Tensor, ...]:
    """Returns a program's outputs where every intermediate value is a float16 number.

    Each operator computes in float32 and rounds its result once, so sums inside an operator do not overflow: it is the
    storage precision of a phone, and an accumulation that is at least as good as the phone's.

    Args:
        program: captured or rewritten.
        inputs: float32, rounded too.
        exact_sinusoids: keep what the timestep's sinusoids are made of in float32, as the Core ML export does.
    """
    module = program.module(check_guards=False)
    assert isinstance(module, torch.fx.GraphModule)
    exact = _feeding_sinusoids(module) if exact_sinusoids else set()
    with torch.no_grad():
        output = _Rounded(module, exact).run(*inputs)
    return output if isinstance(output, tuple) else (output,)


def _feeding_sinusoids(module: torch.fx.GraphModule) -> set[Node]:
    """Returns the sines and cosines, and everything that they are computed from."""
    waiting = [node for node in module.graph.nodes if node.target in _TRIGONOMETRIC]
    found: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found
