"""What validation found, as values and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sdmobile.basics.metrics import Metrics, json_number
from sdmobile.validate.thresholds import Limits, Thresholds

if TYPE_CHECKING:
    from sdmobile.checkpoints.shapes64.obedience import Obedience
    from sdmobile.reference.overflow import OverflowScan
    from sdmobile.validate.bisect import Culprit
    from sdmobile.validate.cause import Cause
    from sdmobile.validate.extras import ExtraCheck

SCHEMA_VERSION = 2
PASSED, FAILED, ERROR, NOT_RUN = "passed", "failed", "error", "not run"
WARNING = "warning"  # a prediction that speaks against a file; it neither passes nor fails


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
        limits: what it had to reach, None where nothing was compared.
        cause: which operation makes it fail, where that was asked.
    """

    component: str
    runtime: str
    status: str
    samples: tuple[SampleCheck, ...] = ()
    worst: Metrics | None = None
    reason: str | None = None
    limits: Limits | None = None
    cause: Cause | None = None

    @property
    def name(self) -> str:
        """What was checked, for people."""
        return f"{self.component} on {self.runtime}"

    @property
    def failure(self) -> str:
        """Why it failed, as one sentence."""
        if self.status == ERROR or self.worst is None or self.limits is None:
            return self.reason or "no reason was given"
        cause = "" if self.cause is None else f"; {self.cause}"
        if self.worst.non_finite > self.limits.non_finite:
            return f"{self.worst.non_finite} non-finite values{cause}"
        return f"{self.worst.psnr_db:.1f} dB, at least {self.limits.component_db:g} dB needed{cause}"

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {
            "component": self.component,
            "runtime": self.runtime,
            "status": self.status,
            "reason": self.reason,
            "failure": self.failure if self.status == FAILED else None,
            "cause": None if self.cause is None else self.cause.to_json(),
            "needed_db": None if self.limits is None else self.limits.component_db,
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
        latent_rmse: root mean square error of the latent after each step.
        image_psnr_db: PSNR of the final image with pixels in [0, 1].
        image_ssim: SSIM of the final image.
        obedience: whether the picture still shows what the caption says, where that can be judged.
        non_finite: non-finite values in latents and image.
        seconds: wall time in the components.
        reason: why it is an error or was not run.
        limits: what it had to reach, None where nothing was compared.
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
    latent_rmse: tuple[float, ...] = ()
    image_ssim: float = float("nan")
    obedience: Obedience | None = None
    limits: Limits | None = None

    @property
    def name(self) -> str:
        """What was checked, for people."""
        return f"image of seed {self.seed} on {self.runtime}"

    @property
    def growth(self) -> ErrorGrowth | None:
        """How the error of the latent grew from step to step; None where a step was not finite or none was run."""
        return error_growth(self.latent_rmse)

    @property
    def failure(self) -> str:
        """Why it failed, as one sentence."""
        if self.status == ERROR or self.limits is None:
            return self.reason or "no reason was given"
        if self.non_finite > self.limits.non_finite:
            return f"{self.non_finite} non-finite values"
        if self.obedience is not None and not self.obedience.kept:
            return f"the caption is no longer obeyed: {'; '.join(self.obedience.wrong)}"
        if self.image_psnr_db >= self.limits.image_db:
            return f"SSIM {self.image_ssim:.4f}, at least {self.limits.image_ssim:g} needed"
        return f"{self.image_psnr_db:.1f} dB, at least {self.limits.image_db:g} dB needed"

    def to_json(self) -> dict[str, Any]:
        """Returns the fields with null for NaN."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "runtime": self.runtime,
            "status": self.status,
            "reason": self.reason,
            "failure": self.failure if self.status == FAILED else None,
            "timesteps": list(self.timesteps),
            "latent_psnr_db": [json_number(value) for value in self.latent_psnr_db],
            "latent_rmse": [json_number(value) for value in self.latent_rmse],
            "error_growth": None if self.growth is None else asdict(self.growth),
            "image_psnr_db": json_number(self.image_psnr_db),
            "image_ssim": json_number(self.image_ssim),
            "needed_db": None if self.limits is None else self.limits.image_db,
            "caption": None if self.obedience is None else self.obedience.to_json(),
            "non_finite": self.non_finite,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class ErrorGrowth:
    """How an error grew along a trajectory.

    Args:
        factor: RMSE of the last latent over that of the first.
        worst_step: the step, counted from 1, whose RMSE grew most against the step before.
        worst_factor: by how much it grew there.
    """

    factor: float
    worst_step: int
    worst_factor: float


def error_growth(rmse: tuple[float, ...]) -> ErrorGrowth | None:
    """Returns the growth of a sequence of errors, None for fewer than two or where one is zero or not finite."""
    if len(rmse) < 2 or not all(math.isfinite(value) and value > 0 for value in rmse):
        return None
    factors = [after / before for before, after in pairwise(rmse)]
    worst = max(range(len(factors)), key=factors.__getitem__)
    return ErrorGrowth(rmse[-1] / rmse[0], worst + 2, factors[worst])


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
        return PASSED in statuses and statuses <= {PASSED, NOT_RUN, WARNING} and not wrong_inside

    @property
    def complete(self) -> bool:
        """Whether nothing was left out."""
        return all(check.status != NOT_RUN for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each check that failed."""
        return tuple(f"{check.name}: {check.failure}" for check in self.checks if check.status in (FAILED, ERROR))

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
