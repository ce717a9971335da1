"""Noise schedules and Diffusers' schedulers."""

from __future__ import annotations

from typing import Any

from sdmobile.errors import CheckpointError, UnsupportedError

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


def scheduler_from_config(config: dict[str, Any], name: str | None = None) -> Any:
    """Builds a Diffusers scheduler with the noise schedule of a checkpoint.

    Args:
        config: the checkpoint's configuration: betas, number of training steps, prediction type.
        name: a key of SCHEDULERS, or a Diffusers class name; without it, the checkpoint's own.

    Raises:
        UnsupportedError: no such scheduler.
        CheckpointError: the checkpoint's scheduler configuration is not usable.
    """
    import diffusers

    class_name, overrides = SCHEDULERS.get(name or "", (name or config.get("_class_name", "PNDMScheduler"), {}))
    cls = getattr(diffusers, str(class_name), None)
    if cls is None or not str(class_name).endswith("Scheduler"):
        raise UnsupportedError("unknown scheduler", class_name, f"Known are {', '.join(SCHEDULERS)}.")
    try:
        return cls.from_config(dict(config), **overrides)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"the scheduler configuration must suit {class_name}", error) from error


PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def prediction_type(config: dict[str, Any], notes: list[str]) -> str:
    """Returns what the denoiser predicts; notes it where it is assumed.

    Raises:
        UnsupportedError: it is none of `PREDICTION_TYPES`.
    """
    prediction = config.get("prediction_type")
    if prediction is None:
        notes.append("scheduler: config does not say prediction_type; epsilon assumed, as Diffusers does")
        return "epsilon"
    if prediction not in PREDICTION_TYPES:
        known = ", ".join(PREDICTION_TYPES)
        raise UnsupportedError("the prediction type must be a known one", prediction, f"Known are {known}.")
    return str(prediction)
