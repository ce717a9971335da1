"""What the rules are, and what they did to one graph, in a form for people and for JSON."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.rewrites.cost import GraphCost, cost_of
from sdmobile.rewrites.engine import apply_rule
from sdmobile.rewrites.options import RewriteOptions
from sdmobile.rewrites.registry import RULES, rule_class, rules_for
from sdmobile.rewrites.rule import Outcome, RewriteRecord, Rule

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def described_rules(device: str | None = None, plain_ops: bool = False) -> list[dict[str, Any]]:
    """Returns name, title, source, claim and devices of every rule.

    Args:
        device: only the rules of this device, in the order of application.
        plain_ops: as the export does with `--plain-ops`.

    Raises:
        UnsupportedError: no such device.
    """
    from sdmobile.device_profiles import list_profiles, load_profile

    options = RewriteOptions(plain_ops=plain_ops)
    used = {name: [r.name for r in rules_for(load_profile(name), options)] for name in list_profiles()}
    if device is not None:
        load_profile(device)
    names = list(RULES) if device is None else used[device]
    return [_described(rule_class(name), [d for d in used if name in used[d]]) for name in names]


def _described(rule: type[Rule], devices: list[str]) -> dict[str, Any]:
    return {
        "name": rule.name,
        "title": rule.title,
        "source": rule.source,
        "exactness": rule.exactness.value,
        "bound_db": rule.bound_db,
        "devices": devices,
    }


def rule_text(name: str) -> str:
    """Returns what a rule says of itself: title, documentation and source.

    Raises:
        UnsupportedError: no such rule.
    """
    rule = rule_class(name)
    return (
        f"{rule.name}: {rule.title} ({rule.exactness.value})\n\n{inspect.getdoc(rule) or ''}\n\nSource: {rule.source}\n"
    )


@dataclass(frozen=True)
class Step:
    """What one rule did to a graph, and what the graph costs after it."""

    rule: str
    records: tuple[RewriteRecord, ...]
    cost: GraphCost

    @property
    def applied(self) -> int:
        """Number of places where it was applied."""
        return sum(record.outcome == Outcome.APPLIED for record in self.records)

    @property
    def refused(self) -> int:
        """Number of places where it was refused."""
        return sum(record.outcome == Outcome.REFUSED for record in self.records)

    def refusals(self) -> list[tuple[str, int, str]]:
        """Returns each reason, how often it was given, and the first place."""
        places_of: dict[str, list[str]] = {}
        for record in self.records:
            if record.outcome == Outcome.REFUSED:
                places_of.setdefault(record.reason or "", []).append(record.module or record.node or "")
        return [(reason, len(places), places[0]) for reason, places in places_of.items()]


@dataclass(frozen=True)
class Explanation:
    """What the rules of a device did to one component."""

    component: str
    before: GraphCost
    steps: tuple[Step, ...]

    @property
    def after(self) -> GraphCost:
        """What the graph costs after all rules."""
        return self.steps[-1].cost if self.steps else self.before

    def summary(self) -> str:
        """Returns operators and peak memory before and after as one line."""
        a, b = self.before, self.after
        memory = f"{a.peak_bytes / 1e6:.1f} → {b.peak_bytes / 1e6:.1f} MB of intermediates in float16"
        return f"{a.operator_count} → {b.operator_count} operators, {memory}"

    def records(self, rule: str) -> list[RewriteRecord]:
        """Returns the records of one rule."""
        return [record for step in self.steps if step.rule == rule for record in step.records]

    def to_json(self) -> dict[str, Any]:
        """Returns everything as a JSON object."""
        steps = [
            {"rule": s.rule, "cost": s.cost.to_json(), "records": [r.to_json() for r in s.records]} for s in self.steps
        ]
        return {"component": self.component, "before": self.before.to_json(), "steps": steps}


def explain_program(component: str, program: ExportedProgram, rules: Sequence[Rule]) -> Explanation:
    """Applies rules to a captured program and keeps what each did.

    Args:
        component: canonical name.
        program: as captured.
        rules: in the order of application.
    """
    before, steps = cost_of(program), []
    for rule in rules:
        program, records = apply_rule(program, rule)
        steps.append(Step(rule.name, tuple(records), cost_of(program)))
    return Explanation(component, before, tuple(steps))
