"""Everything that validation found, as values and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdmobile.validate.checks import ComponentCheck, ExtraCheck, Status, TrajectoryCheck
from sdmobile.validate.thresholds import Thresholds

if TYPE_CHECKING:
    from sdmobile.reference.overflow import OverflowScan
    from sdmobile.validate.bisect.part import Culprit

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class ValidationReport:
    """Everything that validation found.

    Args:
        target: the bundle's target.
        source: name and content hash of the reference.
        thresholds: what had to be reached.
        settings: steps, prompts, seeds, guidance and so on.
        components: one entry per component and runtime.
        trajectories: one entry per prompt and runtime.
        seconds: wall time of the whole validation.
        versions: of sdmobile and what ran.
        extras: verdicts of other checkers: the GPU, the lints, a connected phone.
        overflow: where values come near or beyond the largest float16 number; empty if that was not asked for.
        culprits: the smallest failing subgraph of each component that failed; empty if that was not asked for.
    """

    target: str
    source: dict[str, Any]
    thresholds: Thresholds
    settings: dict[str, Any]
    components: tuple[ComponentCheck, ...]
    trajectories: tuple[TrajectoryCheck, ...]
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    extras: tuple[ExtraCheck, ...] = ()
    overflow: tuple[OverflowScan, ...] = ()
    culprits: tuple[Culprit, ...] = ()

    @property
    def checks(self) -> tuple[ComponentCheck | TrajectoryCheck | ExtraCheck, ...]:
        """Components, then trajectories, then what other checkers say."""
        return (*self.components, *self.trajectories, *self.extras)

    @property
    def passed(self) -> bool:
        """Whether something was checked and all of it passed; what was not run counts for nothing."""
        statuses = {check.status for check in self.checks}
        wrong_inside = any(culprit.reproduced for culprit in self.culprits)
        return (
            Status.PASSED in statuses
            and statuses <= {Status.PASSED, Status.NOT_RUN, Status.WARNING}
            and not wrong_inside
        )

    @property
    def complete(self) -> bool:
        """Whether nothing was left out."""
        return all(check.status != Status.NOT_RUN for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each check that failed."""
        return tuple(
            f"{check.name}: {check.failure}" for check in self.checks if check.status in (Status.FAILED, Status.ERROR)
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the report as the JSON object that `validate --format json` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "sdmobile-validation",
            "passed": self.passed,
            "complete": self.complete,
            "target": self.target,
            "source": self.source,
            "thresholds": self.thresholds.to_json(),
            "settings": self.settings,
            "components": [check.to_json() for check in self.components],
            "trajectories": [check.to_json() for check in self.trajectories],
            "extras": [check.to_json() for check in self.extras],
            "overflow": [scan.to_json() for scan in self.overflow],
            "culprits": [culprit.to_json() for culprit in self.culprits],
            "seconds": self.seconds,
            "versions": self.versions,
        }
