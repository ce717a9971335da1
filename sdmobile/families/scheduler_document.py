"""`scheduler.json`: the sampling loop of a checkpoint as tables, with the conventions that they are read by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.families.few_steps import few_steps
from sdmobile.families.kept_tables import loop_of
from sdmobile.families.sampler_tables import DEFAULT_STEPS

if TYPE_CHECKING:
    from sdmobile.families.sampler_tables import Loop

_NOISE = "z: the next values of the generator that gave the initial latent; not drawn where n is 0"
_CLEAN = {
    "epsilon": "D = (x - sigma * prediction) / alpha",
    "v_prediction": "D = alpha * x - sigma * prediction",
    "sample": "D = prediction",
    "flow": "D = x - sigma * prediction",
}
GUIDANCE = "prediction = uncond + scale * (text - uncond); at a scale of at most 1, prediction = text"
"""What is done with the guidance scale where there are two rows."""


def scheduler_document(
    config: Mapping[str, Any], scaling_factor: float, shift_factor: float = 0.0, default_steps: int = DEFAULT_STEPS
) -> dict[str, Any]:
    """Returns the content of `scheduler.json`: training schedule, conventions and one table per solver and length.

    Args:
        config: the checkpoint's Diffusers scheduler configuration.
        scaling_factor: latents are divided by it before decoding.
        shift_factor: then it is added to them.
        default_steps: what an app does where the user does not say; a distilled checkpoint has its own number.

    Raises:
        CheckpointError, UnsupportedError, MissingDependencyError: as `loop_of`.
    """
    few = few_steps(config)
    steps = default_steps if few is None else few.steps
    return document_of(loop_of(config), scaling_factor, shift_factor, GUIDANCE, steps)


def document_of(
    loop: Loop,
    scaling_factor: float,
    shift_factor: float,
    guidance: str,
    default_steps: int,
    train_timesteps: int | None = None,
) -> dict[str, Any]:
    """Returns the content of `scheduler.json`, the default solver first.

    Args:
        loop: the tables and the training schedule.
        scaling_factor: latents are divided by it before decoding.
        shift_factor: then it is added to them.
        guidance: what is done with the guidance scale.
        default_steps: what an app does where the user does not say.
        train_timesteps: length of the training schedule of a loop without `alphas_cumprod`.
    """
    first, *_ = loop.solvers
    cumulative = loop.alphas_cumprod
    return {
        "schema_version": 1,
        "prediction_type": loop.prediction_type,
        "clean_latent": _CLEAN[loop.prediction_type],
        "guidance": guidance,
        "scaling_factor": scaling_factor,
        **({"shift_factor": shift_factor} if shift_factor else {}),
        "decode": "latent = x / scaling_factor" + (" + shift_factor" if shift_factor else ""),
        "num_train_timesteps": len(cumulative) if train_timesteps is None else train_timesteps,
        **({"alphas_cumprod": list(cumulative)} if cumulative else {}),
        "update": first.update,
        "init_noise_sigma": first.init_noise_sigma,
        **({"noise": _NOISE} if any(solver.draws_noise for solver in loop.solvers) else {}),
        "default_solver": first.name,
        "default_steps": default_steps,
        **({} if loop.note is None else {"note": loop.note}),
        "solvers": {solver.name: solver.to_json() for solver in loop.solvers},
    }
