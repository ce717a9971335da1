"""Switches the rules on one after the other and notes what each changes: the first table of both papers.

    captured ─▶ + rule 1 ─▶ + rule 2 ─▶ …        each state: operators, memory, error, (as a file) operators and time

Source: Chen et al., "Speed Is All You Need", 2023, table 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.rewrites.cost import GraphCost, cost_of
from sdmobile.rewrites.engine import agreement, apply_rule
from sdmobile.rewrites.program import run
from sdmobile.rewrites.rounded import run_rounded
from sdmobile.rewrites.rule import Outcome

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from sdmobile.rewrites.engine import Inputs
    from sdmobile.rewrites.rule import Rule

BASELINE = "as captured"


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
