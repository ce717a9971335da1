"""What a lint says: findings, each with its rule and what to do, and one verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["accepted", "refused", "miscomputed"]
Severity = Literal["refused", "miscomputed", "warning"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Finding:
    """One objection to one operation or to the whole file.

    Args:
        severity: "refused": the runtime does not take it; "miscomputed": it takes it and computes something else;
            "warning": slower or riskier, no reason to refuse.
        rule: short name of the rule, for example "batch-matmul-left-constant".
        detail: what is there, with the numbers.
        fix: what to do.
        source: where the rule comes from: a file of the runtime, an issue, or an own measurement.
        op: type of the operation; None where the whole file is meant.
        node: name or index of the operation.
        version: version of the operation, where the format has one.
        shapes: element types and shapes of inputs and outputs.
        module: where in the source model the operation comes from, as far as the file says.
    """

    severity: Severity
    rule: str
    detail: str
    fix: str
    source: str
    op: str | None = None
    node: str | None = None
    version: int | None = None
    shapes: dict[str, list[str]] = field(default_factory=dict)
    module: str | None = None


@dataclass(frozen=True)
class LintReport:
    """What a lint says of one file.

    Args:
        path: the file.
        runtime: "ml-drift", "tflite-gpu" or "core-ml".
        basis: what the verdict rests on; a prediction is never called a measurement.
        operations: number of operations looked at.
        findings: in the order of the file.
    """

    path: str
    runtime: str
    basis: str
    operations: int
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst that a finding says."""
        said = {finding.severity for finding in self.findings}
        return "refused" if "refused" in said else "miscomputed" if "miscomputed" in said else "accepted"

    @property
    def accepted(self) -> bool:
        """Whether the runtime is predicted to take the whole file and to compute it right."""
        return self.verdict == "accepted"

    def rules(self) -> dict[str, int]:
        """Returns how often each rule was broken."""
        return dict(Counter(finding.rule for finding in self.findings))

    def to_json(self) -> dict[str, Any]:
        """Returns the report as plain data."""
        return {
            "schema_version": SCHEMA_VERSION,
            "path": self.path,
            "runtime": self.runtime,
            "prediction": True,
            "basis": self.basis,
            "verdict": self.verdict,
            "operations": self.operations,
            "rules": self.rules(),
            "findings": [asdict(finding) for finding in self.findings],
        }


def worst(reports: Iterable[LintReport]) -> Verdict:
    """Returns the worst verdict of several reports."""
    said = {report.verdict for report in reports}
    return "refused" if "refused" in said else "miscomputed" if "miscomputed" in said else "accepted"
