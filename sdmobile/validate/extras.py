"""Verdicts of checkers that compare no outputs: the GPU, the lints, a connected phone. All join the report here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdmobile.basics.describe import describe
from sdmobile.basics.metrics import json_number
from sdmobile.validate.results import ERROR, FAILED

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.recording import Recording

PREDICTED = "prediction"
HERE = "this machine"


@dataclass(frozen=True)
class ExtraCheck:
    """What one checker says of one component.

    Args:
        checker: such as "lint ml-drift", "gpu browser", "adb".
        component: canonical name, or "bundle".
        status: passed, warning, failed, error or not run.
        place: where it was measured: "this machine", the phone's name, or "prediction".
        reason: why it failed or was not run.
        findings: one sentence for each thing found.
        figures: numbers by name, with the unit in the name.
    """

    checker: str
    component: str
    status: str
    place: str = HERE
    reason: str | None = None
    findings: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What was checked, for people."""
        return f"{self.component}, {self.checker}"

    @property
    def failure(self) -> str:
        """Why it failed, as one sentence."""
        return "; ".join(filter(None, [self.reason, *self.findings])) or "no reason was given"

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {
            "checker": self.checker,
            "component": self.component,
            "status": self.status,
            "place": self.place,
            "reason": self.reason,
            "failure": self.failure if self.status == FAILED else None,
            "findings": list(self.findings),
            "figures": {name: json_number(value) for name, value in self.figures.items()},
        }


Checker = Callable[["Bundle", Sequence[str], "Recording"], list[ExtraCheck]]
"""Takes a bundle, the components to check and the reference's recorded calls."""


def run_checkers(
    bundle: Bundle, components: Sequence[str], recording: Recording, checkers: Mapping[str, Checker]
) -> list[ExtraCheck]:
    """Runs checkers one after the other; one that raises becomes an error of its own and hides no other.

    Args:
        bundle: what is checked.
        components: canonical names of what to check.
        recording: the reference's calls.
        checkers: by name.
    """
    found: list[ExtraCheck] = []
    for name, checker in checkers.items():
        try:
            found += checker(bundle, components, recording)
        except Exception as error:
            found.append(ExtraCheck(name, "bundle", ERROR, reason=describe(error)))
    return found
