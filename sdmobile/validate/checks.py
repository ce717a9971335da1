"""One check each: what was compared or asked, what came of it, and why it failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sdmobile.basics.metrics import Metrics, json_number
from sdmobile.validate.thresholds import Limits

if TYPE_CHECKING:
    from sdmobile.checkpoints.shapes64.obedience import Obedience
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.recording import Recording

PREDICTED = "prediction"
HERE = "this machine"


class Status(str, Enum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"  # it could not be computed
    NOT_RUN = "not run"
    WARNING = "warning"  # a prediction that speaks against a file; it neither passes nor fails

    def __str__(self) -> str:
        return self.value


class CauseKind(str, Enum):
    """How an operation makes a component fail."""

    OVERFLOW = "overflow"  # a value is not finite in float16
    JUMP = "jump"  # the error against float32 jumps
    DIFFERS = "differs"  # a module computes something else than PyTorch's
    DELEGATE = "delegate"  # the file is right, what LiteRT hands its operators to is not
    UNKNOWN = "unknown"  # nothing stands out

    def __str__(self) -> str:
        return self.value


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
class Cause:
    """What makes a component fail, as far as its file tells.

    Args:
        kind: how.
        sentence: for people.
        operation: name of the operation in the file, None if unknown.
        type: its type.
        module: path of its source module.
        hint: what to do.
    """

    kind: CauseKind
    sentence: str
    operation: str | None = None
    type: str | None = None
    module: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        return self.sentence if self.hint is None else f"{self.sentence}; {self.hint}"

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {**asdict(self), "kind": self.kind.value}


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
    status: Status
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
        cause = "" if self.cause is None else f"; {self.cause}"
        if self.status == Status.ERROR or self.worst is None or self.limits is None:
            return f"{self.reason or 'no reason was given'}{cause}"
        if self.worst.non_finite > self.limits.non_finite:
            return f"{self.worst.non_finite} non-finite values{cause}"
        return f"{self.worst.psnr_db:.1f} dB, at least {self.limits.component_db:g} dB needed{cause}"

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {
            "component": self.component,
            "runtime": self.runtime,
            "status": self.status.value,
            "reason": self.reason,
            "failure": self.failure if self.status == Status.FAILED else None,
            "cause": None if self.cause is None else self.cause.to_json(),
            "needed_db": None if self.limits is None else self.limits.component_db,
            "worst": None if self.worst is None else self.worst.to_json(),
            "samples": [sample.to_json() for sample in self.samples],
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
    status: Status
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
        if self.status == Status.ERROR or self.limits is None:
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
            "status": self.status.value,
            "reason": self.reason,
            "failure": self.failure if self.status == Status.FAILED else None,
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
        tensors: what came of each parameter of the checkpoint, where weights were compared.
    """

    checker: str
    component: str
    status: Status
    place: str = HERE
    reason: str | None = None
    findings: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    tensors: tuple[Mapping[str, Any], ...] = ()

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
            "status": self.status.value,
            "place": self.place,
            "reason": self.reason,
            "failure": self.failure if self.status == Status.FAILED else None,
            "findings": list(self.findings),
            "figures": {name: json_number(value) for name, value in self.figures.items()},
            "tensors": [dict(tensor) for tensor in self.tensors],
        }


Checker = Callable[["Bundle", Sequence[str], "Recording"], list[ExtraCheck]]
"""Takes a bundle, the components to check and the reference's recorded calls."""
