"""Switches the rules on one after the other and notes what each changes: the first table of both papers.

    captured ─▶ + rule 1 ─▶ + rule 2 ─▶ …        each state: operators, memory, error, (as a file) operators and time

Source: Chen et al., "Speed Is All You Need", 2023, table 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_map

from sdmobile.rewrites.cost import GraphCost, cost_of
from sdmobile.rewrites.engine import agreement, apply_rule
from sdmobile.rewrites.operators import ancestors
from sdmobile.rewrites.program import run
from sdmobile.rewrites.rule import Outcome

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from sdmobile.rewrites.engine import Inputs
    from sdmobile.rewrites.rule import Rule

BASELINE = "as captured"
_TRIGONOMETRIC = (torch.ops.aten.sin.default, torch.ops.aten.cos.default)


@dataclass(frozen=True)
class AblationRow:
    """A state of the graph: after a rule and all rules before it.

    Args:
        rule: the rule that was switched on last; "as captured" for the first row.
        applied: places where it was applied.
        refused: places where it was refused.
        cost: what the graph costs by its structure.
        float32_db: least PSNR in float32 against the captured graph, over all inputs; infinite where nothing differs.
        float16_db: least PSNR with every value rounded to float16, against the captured graph in float32.
    """

    rule: str
    applied: int
    refused: int
    cost: GraphCost
    float32_db: float
    float16_db: float

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        exact = None if math.isinf(self.float32_db) else self.float32_db
        return {**asdict(self), "cost": self.cost.to_json(), "float32_db": exact}


def ablate(
    program: ExportedProgram, rules: Sequence[Rule], inputs: Inputs, exact_sinusoids: bool
) -> Iterator[tuple[AblationRow, ExportedProgram]]:
    """Yields each state that differs from the one before it, and its program.

    Args:
        program: as captured.
        rules: in the order of application.
        inputs: recorded inputs of the component.
        exact_sinusoids: see `run_rounded`.
    """
    expected = [run(program, arguments) for arguments in inputs]

    def row(rule: str, state: ExportedProgram, applied: int, refused: int) -> AblationRow:
        exact = [run(state, arguments) for arguments in inputs]
        rounded = [run_rounded(state, arguments, exact_sinusoids) for arguments in inputs]
        return AblationRow(rule, applied, refused, cost_of(state), _least(expected, exact), _least(expected, rounded))

    yield row(BASELINE, program, 0, 0), program
    for rule in rules:
        program, records = apply_rule(program, rule)
        applied = sum(record.outcome == Outcome.APPLIED for record in records)
        if applied:
            yield row(rule.name, program, applied, sum(r.outcome == Outcome.REFUSED for r in records)), program


def _least(expected: list[tuple[Tensor, ...]], outputs: list[tuple[Tensor, ...]]) -> float:
    """Returns the least PSNR over all inputs and outputs in dB."""
    return min(agreement(a, b) for a, b in zip(expected, outputs, strict=True))


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
    return ancestors(node for node in module.graph.nodes if node.target in _TRIGONOMETRIC)
