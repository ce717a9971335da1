"""The largest magnitude of every operator's result in a captured program."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Interpreter, Node

from sdmobile.rewrites.rule import source_module

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

_aten = torch.ops.aten
_ATTENTION = _aten.scaled_dot_product_attention.default


@dataclass(frozen=True)
class Magnitude:
    """The largest magnitude of one operator's result.

    Args:
        node: name of the operator's node.
        module: path of the module that it comes from, empty for the component itself.
        operator: which operator, or what of a fused operator's inside.
        value: the magnitude, infinite where the result is not a number.
    """

    node: str
    module: str
    operator: str
    value: float


class _Watching(Interpreter):
    """Notes the largest magnitude of each operator's floating-point result, and of what fused operators hold inside."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: list[Magnitude] = []

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            self._note(n, _name(n), value)
            if n.target is _ATTENTION:
                query, key = (self.env[node] for node in n.args[:2])  # pyright: ignore[reportArgumentType, reportCallIssue]
                scale = n.kwargs.get("scale") or 1.0 / math.sqrt(query.shape[-1])
                self._note(n, "attention scores", _scores(query, key, float(scale)))  # pyright: ignore[reportArgumentType]
        return value

    def _note(self, node: Node, name: str, value: Tensor) -> None:
        largest = float(value.abs().max())
        value_or_inf = math.inf if math.isnan(largest) else largest
        self.seen.append(Magnitude(node.name, source_module(node) or "", name, value_or_inf))


def magnitudes(program: ExportedProgram, inputs: tuple[Tensor, ...]) -> Iterator[Magnitude]:
    """Yields the largest magnitude of each operator's result, in the order of the program.

    Args:
        program: captured, in float32.
        inputs: of one call.
    """
    module = program.module(check_guards=False)
    assert isinstance(module, torch.fx.GraphModule)
    watching = _Watching(module)
    watching.garbage_collect_values = True
    with torch.no_grad():
        watching.run(*inputs)
    yield from watching.seen


def _name(node: Node) -> str:
    return getattr(node.target, "__name__", str(node.target)).split(".")[0]


def _scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Returns the largest attention score of each query row, head by head so that memory stays small.

    The scale goes to the query first, as the exporters write it, so that what is looked at is what a phone computes.
    """
    rows = [
        (q * scale @ k.transpose(-1, -2)).abs().amax(-1)
        for q, k in zip(query.flatten(0, -3), key.flatten(0, -3), strict=True)
    ]
    return torch.stack(rows)
