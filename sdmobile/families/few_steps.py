"""How checkpoints that were distilled to few steps are sampled, and what tells that one is.

A scheduler's configuration tells it (`few_steps`), or the user (`Distillation`): a single file has no scheduler, and a
LoRA that distils changes none. What the user says goes into the configuration, under `_distilled`, which Diffusers
passes over, and travels with it. A name tells too little to act on, and too much to pass over (`hinted`).

Sources: the model cards of ByteDance/SDXL-Lightning, ByteDance/Hyper-SD, tianweiy/DMD2, stabilityai/sd-turbo,
latent-consistency/lcm-lora-sdv1-5 and h1t/TCD-SD15-LoRA.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sdmobile.basics.words import nearest
from sdmobile.errors import CheckpointError, UsageError
from sdmobile.families.schedulers import LCM, check_schedule

DISTILLED = "_distilled"
"""The key of a scheduler's configuration that holds what the user said."""
NONE = "none"
"""Said of a checkpoint that only its name makes look distilled."""
MOST_STEPS = 8
_EULER = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
_TRAILING = {"timestep_spacing": "trailing"}
# What a schedule keeps of the configuration that it takes the place of: how noise was added in training.
_TRAINING = (
    "beta_end",
    "beta_schedule",
    "beta_start",
    "num_train_timesteps",
    "prediction_type",
    "set_alpha_to_one",
    "steps_offset",
    "trained_betas",
)


@dataclass(frozen=True)
class Kind:
    """One way to distil.

    Args:
        title: for people.
        mark: of names, as a regular expression.
        settings: of the scheduler, on top of the training schedule.
        usual: number of steps.
        guidance_scale: that its model card asks for.
        one_step: settings of checkpoints that were made for one step, where they are others.
        timesteps: where they are not the scheduler's own, by number of steps.
    """

    title: str
    mark: str
    settings: Mapping[str, Any]
    usual: int = 4
    guidance_scale: float = 0.0
    one_step: Mapping[str, Any] | None = None
    timesteps: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


_TCD = {"_class_name": "TCDScheduler"}
KINDS: Mapping[str, Kind] = {
    "lightning": Kind(
        "Lightning",
        r"(?i:lightning)",
        {"_class_name": _EULER[0], **_TRAILING},
        one_step={"_class_name": _EULER[0], **_TRAILING, "prediction_type": "sample"},
    ),
    "hyper": Kind(
        "Hyper-SD",
        r"[Hh]yper(?=$|[^a-z]|sd)(?!(?i:[-_ ]?(?:real|detail|net)))",
        {"_class_name": "DDIMScheduler", **_TRAILING},
        one_step=_TCD,
    ),
    "dmd2": Kind("DMD2", r"(?i:dmd_?2)", {"_class_name": LCM}, timesteps={1: (399,), 4: (999, 749, 499, 249)}),
    "turbo": Kind("Turbo", r"(?i:turbo)", {"_class_name": _EULER[0], **_TRAILING}, usual=1),
    "lcm": Kind("LCM", r"LCM|(?<![a-z])(?:lcm|Lcm)(?![a-z])", {"_class_name": LCM}, guidance_scale=1.0),
    "tcd": Kind("TCD", r"(?<![A-Za-z])(?:tcd|TCD)(?![a-z])", _TCD),
}
_STEPS = re.compile(r"(?<![0-9])([1-8])[-_ ]?(?i:steps?)(?![a-zA-Z0-9]|[-_ ]?[0-9])")


@dataclass(frozen=True)
class Distillation:
    """What a user, or a name, says of how a checkpoint was distilled.

    Args:
        kind: a key of `KINDS`, or "none".
        steps: that it was made for; None where that is not said.
    """

    kind: str
    steps: int | None = None

    @classmethod
    def parse(cls, text: str) -> Distillation:
        """Reads `KIND`, `KIND:STEPS` or `none`; raises UsageError for anything else."""
        kind, colon, steps = text.partition(":")
        known = (*KINDS, NONE)
        if kind not in known:
            raise UsageError(f"--distilled is one of {', '.join(known)}", text[:40], nearest(kind[:40], known))
        if not colon:
            return cls(kind)
        if kind == NONE or not re.fullmatch(f"[1-{MOST_STEPS}]", steps):
            fix = "Write lightning:4." if kind == NONE else f"Write {kind}:4."
            raise UsageError(f"a distilled checkpoint is sampled in 1 to {MOST_STEPS} steps", text[:40], fix)
        return cls(kind, int(steps))

    def __str__(self) -> str:
        """Returns it as `--distilled` takes it."""
        return self.kind if self.steps is None else f"{self.kind}:{self.steps}"

    @property
    def example(self) -> str:
        """What a user may write who has a name like this."""
        kind = KINDS.get(self.kind)
        return f"{self.kind if kind else 'KIND'}:{self.steps or (kind.usual if kind else 'STEPS')}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the scheduler."""
        kind = KINDS[self.kind]
        return kind.one_step if self.steps == 1 and kind.one_step is not None else kind.settings

    @property
    def prediction_type(self) -> str | None:
        """What the UNet predicts; None for what it predicted before."""
        return None if self.kind == NONE else self.settings.get("prediction_type")

    def schedule(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the configuration of the scheduler: the training schedule of another, the sampler of this kind.

        Raises:
            CheckpointError, UnsupportedError: the other is none of diffusion.
        """
        check_schedule(config)
        training = {key: config[key] for key in _TRAINING if key in config}
        return {**training, **self.settings, DISTILLED: str(self)}


@dataclass(frozen=True)
class FewSteps:
    """How a distilled checkpoint is sampled, and what tells that it is one."""

    steps: int
    guidance_scale: float
    reason: str
    timesteps: tuple[int, ...] | None = None


def few_steps(config: Mapping[str, Any]) -> FewSteps | None:
    """Returns how a checkpoint that was distilled to few steps is sampled, by its scheduler; None for any other.

    Raises:
        CheckpointError: the configuration says `_distilled`, and nothing that is known.
    """
    name = config.get("_class_name")
    if DISTILLED in config:
        return _said(config[DISTILLED])
    if name == LCM:
        return FewSteps(4, 1.0, f"{LCM}: distilled for few steps without guidance")
    if name == "TCDScheduler":
        return FewSteps(4, 0.0, "TCDScheduler: distilled for few steps without guidance")
    epsilon = config.get("prediction_type", "epsilon") == "epsilon" and not config.get("rescale_betas_zero_snr")
    if name in _EULER and config.get("timestep_spacing") == "trailing" and epsilon:
        return FewSteps(1, 0.0, f"{name} with trailing timesteps, as SD-Turbo has: made for few steps without guidance")
    return None


def _said(stated: object) -> FewSteps | None:
    try:
        distilled = Distillation.parse(str(stated))
    except UsageError as error:
        raise CheckpointError(f"{DISTILLED} of the scheduler must be what --distilled takes", error.value) from error
    if distilled.kind == NONE:
        return None
    kind = KINDS[distilled.kind]
    steps = distilled.steps or kind.usual
    reason = f"{kind.title} ({distilled})"
    if kind.timesteps and steps not in kind.timesteps:
        reason += (
            f", at {LCM}'s own timesteps: others are known for {' and '.join(map(str, kind.timesteps))} steps alone"
        )
    return FewSteps(steps, kind.guidance_scale, reason, kind.timesteps.get(steps))


def set_timesteps(scheduler: Any, config: Mapping[str, Any], steps: int) -> None:
    """Sets the timesteps of a scheduler: those that the checkpoint was distilled with, or the scheduler's own.

    Args:
        scheduler: of Diffusers; another than the configuration's has its own.
        config: of the checkpoint.
        steps: their number.
    """
    few = few_steps(config)
    given = None if few is None or type(scheduler).__name__ != config.get("_class_name") else few.timesteps
    if given is not None and len(given) == steps:
        scheduler.set_timesteps(timesteps=list(given))
    else:
        scheduler.set_timesteps(steps)


def hinted(names: Iterable[str]) -> tuple[Distillation, str] | None:
    """Returns how a checkpoint was distilled by what it or a LoRA is called, and the name; None where none says so.

    A name that says a number of steps alone gives the kind "" with it.
    """
    for name in names:
        found = {kind: match.start() for kind, one in KINDS.items() if (match := re.search(one.mark, name))}
        steps = _STEPS.search(name)
        if found or steps:
            return Distillation(min(found, key=found.__getitem__, default=""), int(steps[1]) if steps else None), name
    return None


def says_how(config: Mapping[str, Any], distilled: Distillation) -> bool:
    """Returns whether a scheduler says how a checkpoint is sampled that is called so.

    Lightning's is SD-Turbo's, which does not say the number of steps.
    """
    return distilled.kind != "lightning" and few_steps(config) is not None


def completed(
    said: Distillation | None, names: Iterable[str], config: Mapping[str, Any], steps: int | None
) -> Distillation | None:
    """Returns what a user says with its number of steps, or what name and scheduler say together; None for neither.

    Args:
        said: by the user.
        names: of the checkpoint.
        config: of its scheduler.
        steps: that its model card says.
    """
    hint = hinted(names)
    by_name = None if hint is None else hint[0]
    if said is not None:
        if said.kind == NONE or said.steps is not None:
            return said
        named = by_name.steps if by_name is not None and by_name.kind in ("", said.kind) else None
        return Distillation(said.kind, named or KINDS[said.kind].usual)
    known = few_steps(config)
    trailing = known is not None and config.get("_class_name") in _EULER and DISTILLED not in config and steps is None
    return by_name if trailing and by_name is not None and by_name.kind == "lightning" and by_name.steps else None
