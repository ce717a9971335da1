"""Runs a graph with every value rounded to float16, as a phone's memory holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_leaves, tree_map

from sdmobile.rewrites.operators import ancestors

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

_TRIGONOMETRIC = (torch.ops.aten.sin.default, torch.ops.aten.cos.default)


class _Rounded(Interpreter):
    """Rounds the result of every node, weights included, and computes each operator in float32."""

    def __init__(self, module: torch.fx.GraphModule, exact: set[Node]) -> None:
        super().__init__(module)
        self._exact = exact
        self.largest = 0.0

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._exact:
            return value
        for leaf in tree_leaves(value):
            if _is_float(leaf) and (finite := leaf[leaf.isfinite()]).numel():  # masks hold -inf on purpose
                self.largest = max(self.largest, float(finite.abs().max()))
        return tree_map(_round, value)


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _round(value: Any) -> Any:
    """Returns a floating-point tensor rounded to float16 and back; anything else as it is."""
    return value.half().to(value.dtype) if _is_float(value) else value


def run_rounded(
    program: ExportedProgram, inputs: tuple[Tensor, ...], exact_sinusoids: bool = False
) -> tuple[Tensor, ...]:
    """Returns a program's outputs where every intermediate value is a float16 number; see `rounded_range`."""
    return rounded_range(program, inputs, exact_sinusoids)[0]


def rounded_range(
    program: ExportedProgram, inputs: tuple[Tensor, ...], exact_sinusoids: bool = False
) -> tuple[tuple[Tensor, ...], float]:
    """Returns a program's outputs where every intermediate value is a float16 number, and the largest one before.

    The largest is that of finite values, whatever their sign.

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
    interpreter = _Rounded(module, exact)
    with torch.no_grad():
        output = interpreter.run(*inputs)
    return (output if isinstance(output, tuple) else (output,)), interpreter.largest


def _feeding_sinusoids(module: torch.fx.GraphModule) -> set[Node]:
    """Returns the sines and cosines, and everything that they are computed from."""
    return ancestors(node for node in module.graph.nodes if node.target in _TRIGONOMETRIC)
