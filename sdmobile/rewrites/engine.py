"""Applies rules to a captured graph.

    captured program ──▶ for each rule, in order: match ─▶ check ─▶ trace the replacement ─▶ splice ──▶ fold ──▶ lint
                                                             └─▶ record why not                          ──▶ compare

A replacement is traced to the same ATen operators that torch.export yields, so every backend takes the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from sdmobile.errors import ParityError
from sdmobile.rewrites.program import Draft, run
from sdmobile.rewrites.rule import Exactness, Outcome, RewriteRecord, Rule, source_module
from sdmobile.rewrites.tracing import Tracer, fold, remap, splice

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import Node

Inputs = Sequence[tuple["Tensor", ...]]


@dataclass(frozen=True)
class RuleCheck:
    """What check mode measured of one rule.

    Args:
        rule: the rule's name.
        psnr_db: least PSNR between the program before and after the rule, over all inputs and outputs, in float32;
            infinite where they are equal.
        bound_db: what the rule promises; None if it changes the function.
        seconds: time of the comparison.
    """

    rule: str
    psnr_db: float
    bound_db: float | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object; a level without bound is null."""
        levels = {name: getattr(self, name) for name in ("psnr_db", "bound_db")}
        finite = {name: value if value is not None and math.isfinite(value) else None for name, value in levels.items()}
        return {**asdict(self), **finite}


@dataclass(frozen=True)
class Rewritten:
    """A rewritten program, what each rule did to each match, and what check mode measured (empty without it)."""

    program: ExportedProgram
    records: tuple[RewriteRecord, ...]
    checks: tuple[RuleCheck, ...] = ()


def rewrite(program: ExportedProgram, rules: Sequence[Rule], check_inputs: Inputs = ()) -> Rewritten:
    """Returns a program with the rules applied in order, and what each rule did.

    Args:
        program: a captured program; it is left as it was (the weights are shared).
        rules: the selected rules, in the order of application.
        check_inputs: turns check mode on: after every rule the program is run on each of these tuples of inputs and
            compared with the program before the rule.

    Raises:
        ParityError: in check mode, a rule broke its own bound.
    """
    records: list[RewriteRecord] = []
    checks: list[RuleCheck] = []
    for rule in rules:
        before, (program, rule_records) = program, apply_rule(program, rule)
        records += rule_records
        if check_inputs and any(record.outcome == Outcome.APPLIED for record in rule_records):
            checks.append(compare(rule, before, program, check_inputs))
    return Rewritten(program, tuple(records), tuple(checks))


def apply_rule(program: ExportedProgram, rule: Rule) -> tuple[ExportedProgram, list[RewriteRecord]]:
    """Applies one rule to everything that it matches."""
    draft, tracer = Draft(program), Tracer()
    records: list[RewriteRecord] = []
    replaced: dict[Node, Node] = {}
    added: dict[str, list[Node]] = {}
    for match in list(rule.matches(draft.graph)):
        current, name, module = remap(match, replaced), match.root.name, source_module(match.root)
        reason = rule.check(current)
        if reason is not None:
            details = rule.details(current) if rule.selective else {}
            records.append(
                RewriteRecord(rule.name, rule.exactness, Outcome.REFUSED, name, module, reason, details=details)
            )
            continue
        removed, details = len(match.covers), rule.details(current)
        records.append(
            RewriteRecord(rule.name, rule.exactness, Outcome.APPLIED, name, module, None, removed, 0, details)
        )
        replaced[match.root], added[name] = splice(draft, current, tracer.trace(rule, current), rule.name)
    if rule.folds:
        fold(draft, [node for nodes in added.values() for node in nodes], rule.name)
    rewritten = draft.finish()
    alive = set(draft.graph.nodes)
    records = [replace(r, added=len(alive.intersection(added.get(r.node or "", ())))) for r in records]
    return rewritten, records or [RewriteRecord(rule.name, rule.exactness, Outcome.UNMATCHED)]


def compare(rule: Rule, before: ExportedProgram, after: ExportedProgram, inputs: Inputs) -> RuleCheck:
    """Runs two programs on the same inputs and holds the rule to its bound.

    Raises:
        ParityError: they differ by more than the rule promises.
    """
    started = time.perf_counter()
    worst = min(agreement(run(before, arguments), run(after, arguments)) for arguments in inputs)
    bound = None if rule.exactness == Exactness.CHANGES_FUNCTION else rule.bound_db
    if bound is not None and not worst >= bound:
        raise ParityError(
            f"the rewrite {rule.name} promises {bound:g} dB in float32",
            f"{worst:.1f} dB",
            f"Export with --without {rule.name}, and report this checkpoint's architecture",
        )
    return RuleCheck(rule.name, worst, bound, time.perf_counter() - started)


def agreement(expected: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Returns the least PSNR in dB over pairs of outputs; infinite where all are equal."""
    from sdmobile.basics.metrics import psnr

    pairs = [(a.numpy(), b.numpy()) for a, b in zip(expected, outputs, strict=True)]
    return min(math.inf if (a == b).all() else psnr(a, b) for a, b in pairs)
