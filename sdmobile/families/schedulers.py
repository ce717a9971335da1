"""Noise schedules and Diffusers' schedulers, set up as `StableDiffusionPipeline` sets them up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sdmobile.basics.words import meant
from sdmobile.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

# The noise schedule of Stable Diffusion 1.x and 2.x, for what has none of its own.
STABLE_DIFFUSION: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}

# Short name -> Diffusers class and what is set on top of the checkpoint's own configuration.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "dpm++-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
DEFAULT = "PNDMScheduler"
LCM = "LCMScheduler"
ANCESTRAL = "EulerAncestralDiscreteScheduler"
# StableDiffusionPipeline sets both, whatever the configuration says or lacks: latents are not bounded by [-1, 1], and
# the schedule was trained with the first step at timestep 1.
OVERRIDDEN = {"clip_sample": False, "steps_offset": 1}
_MOST_TIMESTEPS = 100_000


def scheduler_from_config(config: Mapping[str, Any], name: str | None = None, **settings: Any) -> Any:
    """Builds a Diffusers scheduler with the noise schedule of a checkpoint, as Stable Diffusion's pipeline has it.

    Args:
        config: the checkpoint's configuration: betas, number of training steps, prediction type.
        name: a key of SCHEDULERS, or a Diffusers class name; without it, the checkpoint's own.
        settings: set on top of all that.

    Raises:
        UnsupportedError: no such scheduler.
        CheckpointError: the checkpoint's scheduler configuration is not usable.
    """
    class_name, overrides = SCHEDULERS.get(name or "", (name or config.get("_class_name", DEFAULT), {}))
    cls = _scheduler_class(class_name)
    check_schedule(config)
    return built(cls, config, {**OVERRIDDEN, **overrides, **settings})


def built(cls: Any, config: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Any:
    """Makes a scheduler of a class of Diffusers.

    Args:
        cls: the class.
        config: the checkpoint's configuration.
        settings: set on top of it.

    Raises:
        CheckpointError: the configuration is not usable.
    """
    own = {key: value for key, value in config.items() if key != "_use_default_values"}
    try:
        return cls.from_config(own, **(settings or {}))
    except Exception as error:  # whatever a class makes of values that it did not expect
        value = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"the scheduler configuration must suit {cls.__name__}", value) from error


def _scheduler_class(class_name: object) -> Any:
    import diffusers

    cls = getattr(diffusers, class_name, None) if isinstance(class_name, str) else None
    if cls is None or not str(class_name).endswith("Scheduler") or not hasattr(cls, "from_config"):
        names = (*SCHEDULERS, *(known for known, _ in SCHEDULERS.values()))
        rest = f"Known are {', '.join(SCHEDULERS)}."
        raise UnsupportedError("unknown scheduler", class_name, meant(class_name, names, rest))
    return cls


def check_schedule(config: Mapping[str, Any]) -> None:
    """Raises unless a scheduler's configuration describes diffusion with bounded, finite numbers.

    Raises:
        CheckpointError: a number that no schedule can have.
        UnsupportedError: flow matching, whose networks predict something else.
    """
    name = config.get("_class_name")
    if "FlowMatch" in str(name) or config.get("use_flow_sigmas"):
        raise UnsupportedError(
            "the scheduler must be one of diffusion with betas",
            f"{name}: flow matching (SD3, Flux)",
            "Give the scheduler that the UNet was trained with: scheduler/scheduler_config.json",
        )
    steps = check_training_steps(config)
    for key in ("beta_start", "beta_end"):
        if key in config and not _is_share(config[key]):
            raise CheckpointError(f"{key} of the scheduler must be a number from 0 to 1", config[key])
    betas = config.get("trained_betas")
    if betas is not None and not (isinstance(betas, list) and len(betas) == steps and all(map(_is_share, betas))):
        raise CheckpointError("trained_betas of the scheduler must be one number from 0 to 1 per training step", "")


def check_training_steps(config: Mapping[str, Any]) -> int:
    """Returns the steps of a training schedule.

    Raises:
        CheckpointError: a number that no schedule can have.
    """
    steps = config.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 1 <= steps <= _MOST_TIMESTEPS:
        raise CheckpointError(
            f"num_train_timesteps of the scheduler must be a whole number up to {_MOST_TIMESTEPS}", steps
        )
    return steps


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value < 1.0


def step_settings(scheduler: Any, generator: Any = None) -> dict[str, Any]:
    """Returns what a scheduler's step gets besides the numbers, as StableDiffusionPipeline gives it: no noise by η.

    Args:
        scheduler: of Diffusers.
        generator: torch's, for schedulers that draw noise whatever η is.
    """
    import inspect

    given = {"eta": 0.0, "generator": generator}
    return {name: given[name] for name in given if name in inspect.signature(scheduler.step).parameters}


def consistency_step(
    scheduler: Any, prediction: Tensor, timestep: Tensor, latent: Tensor, noise: Callable[[], NDArray[np.float32]]
) -> Tensor:
    """Returns the latent after one step of an LCMScheduler, [1, C, h, w], with noise that a phone can draw too.

        x_next = √ᾱ_next·f + √(1 − ᾱ_next)·z,  after the last step x = f       (Luo et al., arXiv 2310.04378)

    Diffusers' step gives f; its own noise is of torch's generator.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    denoised = scheduler.step(prediction, timestep, latent, generator=generator, return_dict=False)[1]
    if scheduler.step_index == len(scheduler.timesteps):
        return denoised
    alpha = scheduler.alphas_cumprod[scheduler.timesteps[scheduler.step_index]]
    return alpha.sqrt() * denoised + (1.0 - alpha).sqrt() * torch.from_numpy(noise())


def ancestral_sigmas(scheduler: Any, index: int) -> tuple[float, float, float, float]:
    """Returns σ/α before and after a step of an ancestral scheduler, and what of the latter is kept and drawn anew.

        ↑² = s_next²·(s² − s_next²)/s²,  ↓² = s_next² − ↑²

    As Diffusers' EulerAncestralDiscreteScheduler has it, after k-diffusion's `get_ancestral_step`.
    """
    ratio, following = (float(scheduler.sigmas[place]) for place in (index, index + 1))
    up = (following**2 * (ratio**2 - following**2) / ratio**2) ** 0.5
    return ratio, following, (following**2 - up**2) ** 0.5, up


def ancestral_step(
    scheduler: Any, prediction: Tensor, timestep: Tensor, latent: Tensor, noise: Callable[[], NDArray[np.float32]]
) -> Tensor:
    """Returns the latent after one step of ancestral Euler, [1, C, h, w], with noise that a phone can draw too.

        x_next = x + (x − D)/s·(↓ − s) + ↑·z                                               (`ancestral_sigmas`)

    Diffusers' step gives D; its own noise is of torch's generator.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    denoised = scheduler.step(prediction, timestep, latent, generator=generator).pred_original_sample
    ratio, _, down, up = ancestral_sigmas(scheduler, scheduler.step_index - 1)
    moved = latent + (latent - denoised) / ratio * (down - ratio)
    return moved if up == 0.0 else moved + up * torch.from_numpy(noise())


PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def prediction_type(config: Mapping[str, Any], notes: list[str]) -> str:
    """Returns what the denoiser predicts; notes it where it is assumed.

    Raises:
        UnsupportedError: it is none of `PREDICTION_TYPES`.
    """
    prediction = config.get("prediction_type")
    if prediction is None:
        notes.append(
            "scheduler: config does not say prediction_type; epsilon assumed, as Diffusers does "
            "(--prediction-type says otherwise)"
        )
        return "epsilon"
    if prediction not in PREDICTION_TYPES:
        known = ", ".join(PREDICTION_TYPES)
        raise UnsupportedError("the prediction type must be a known one", prediction, f"Known are {known}.")
    return str(prediction)


def finite_positive(value: object) -> bool:
    """Whether a value of a configuration is a number above zero that is neither NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
