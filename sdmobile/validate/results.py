"""What validation found, as values and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sdmobile.validate.metrics import Metrics, json_number
from sdmobile.validate.thresholds import Thresholds

SCHEMA_VERSION = 1
PASSED, FAILED, ERROR, NOT_RUN = "passed", "failed", "error", "not run"


@dataclass(frozen=True)
class SampleCheck:
    """One recorded input through the file.

    Args:
        key: content address of the input.
        label: where in the run it was recorded.
        metrics: the file's output against torch's.
        seconds: wall time of the file's call, the first one with loading.
    """

    key: str
    label: str
    metrics: Metrics
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {"key": self.key, "label": self.label, "seconds": self.seconds, **self.metrics.to_json()}


@dataclass(frozen=True)
class ComponentCheck:
    """One component on one runtime.

    Args:
        component: canonical name.
        runtime: what ran it.
        status: passed, failed (below threshold), error or not run.
        samples: one entry per recorded input.
        worst: the worst of each figure, None without samples.
        reason: why it is an error or was not run.
    """

    component: str
    runtime: str
    status: str
    samples: tuple[SampleCheck, ...] = ()
    worst: Metrics | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {
            "component": self.component,
            "runtime": self.runtime,
            "status": self.status,
            "reason": self.reason,
            "worst": None if self.worst is None else self.worst.to_json(),
            "samples": [sample.to_json() for sample in self.samples],
        }


@dataclass(frozen=True)
class TrajectoryCheck:
    """One prompt sampled whole on one runtime, against the reference with the same seed.

    Args:
        prompt: the prompt.
        seed: seed of the initial noise.
        runtime: what ran it.
        status: passed, failed, error or not run; the final image decides.
        timesteps: of the scheduler, one per step.
        latent_psnr_db: PSNR of the latent after each step; NaN where it is not finite.
        image_psnr_db: PSNR of the final image with pixels in [0, 1].
        non_finite: non-finite values in latents and image.
        seconds: wall time in the components.
        reason: why it is an error or was not run.
    """

    prompt: str
    seed: int
    runtime: str
    status: str
    timesteps: tuple[float, ...] = ()
    latent_psnr_db: tuple[float, ...] = ()
    image_psnr_db: float = float("nan")
    non_finite: int = 0
    seconds: float = 0.0
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields with null for NaN."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "runtime": self.runtime,
            "status": self.status,
            "reason": self.reason,
            "timesteps": list(self.timesteps),
            "latent_psnr_db": [json_number(value) for value in self.latent_psnr_db],
            "image_psnr_db": json_number(self.image_psnr_db),
            "non_finite": self.non_finite,
            "seconds": self.seconds,
        }


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
    """

    target: str
    source: dict[str, Any]
    thresholds: Thresholds
    settings: dict[str, Any]
    components: tuple[ComponentCheck, ...]
    trajectories: tuple[TrajectoryCheck, ...]
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def checks(self) -> tuple[ComponentCheck | TrajectoryCheck, ...]:
        """Components, then trajectories."""
        return (*self.components, *self.trajectories)

    @property
    def passed(self) -> bool:
        """Whether something was checked and all of it passed; what was not run counts for nothing."""
        statuses = {check.status for check in self.checks}
        return PASSED in statuses and statuses <= {PASSED, NOT_RUN}

    @property
    def complete(self) -> bool:
        """Whether nothing was left out."""
        return all(check.status != NOT_RUN for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each check that failed."""
        return tuple(_failure(check, self.thresholds) for check in self.checks if check.status in (FAILED, ERROR))

    def to_json(self) -> dict[str, Any]:
        """Returns the report as the JSON object that `validate --json` prints."""
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
            "seconds": self.seconds,
            "versions": self.versions,
        }


def _failure(check: ComponentCheck | TrajectoryCheck, thresholds: Thresholds) -> str:
    if isinstance(check, ComponentCheck):
        name, limit = f"{check.component} on {check.runtime}", thresholds.component_db
        figure = None if check.worst is None else (check.worst.psnr_db, check.worst.non_finite)
    else:
        name, limit = f"image of seed {check.seed} on {check.runtime}", thresholds.image_db
        figure = (check.image_psnr_db, check.non_finite)
    if check.status == ERROR or figure is None:
        return f"{name}: {check.reason}"
    decibels, non_finite = figure
    if non_finite > thresholds.non_finite:
        return f"{name}: {non_finite} non-finite values"
    return f"{name}: {decibels:.1f} dB, at least {limit:g} dB needed"
