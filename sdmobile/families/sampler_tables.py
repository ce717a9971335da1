"""The sampling loop as tables, so that a phone app needs no scheduler library.

A deterministic multistep solver is linear: with D_i the clean latent that the UNet's output implies at step i,

    x_{i+1} = a_i·x_i + b_i·D_i + c_i·D_{i−1}

The coefficients are read off Diffusers' own scheduler by feeding it known numbers, so they carry its conventions
(timestep spacing, final step, thresholds) exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

STEP_COUNTS = (4, 8, 10, 15, 20, 25, 30, 50)
_PROBES = 16
_TOLERANCE = 1e-5
_SOLVERS = {"dpm++": "DPMSolverMultistepScheduler", "ddim": "DDIMScheduler"}


def multistep_table(scheduler: Any, steps: int) -> list[dict[str, float]]:
    """Returns the linear update of every step of a Diffusers scheduler.

    Args:
        scheduler: a deterministic Diffusers scheduler of at most two steps of memory.
        steps: number of sampling steps.

    Returns:
        One row per step: timestep, alpha and sigma (of x = α·x₀ + σ·ε), a, b and c.

    Raises:
        UnsupportedError: the scheduler is not linear in x, D_i and D_{i−1}.
    """
    import numpy as np
    import torch

    scheduler.set_timesteps(steps)
    draw = np.random.RandomState(0)
    rows: list[dict[str, float]] = []
    before = np.zeros(_PROBES)
    for index, timestep in enumerate(scheduler.timesteps):
        alpha, sigma = alpha_sigma(scheduler, int(timestep))
        sample, clean = draw.standard_normal((2, _PROBES))
        output = model_output(scheduler.config.prediction_type, sample, clean, alpha, sigma)
        result = scheduler.step(torch.from_numpy(output), timestep, torch.from_numpy(sample)).prev_sample.numpy()
        terms = np.stack([sample, clean] + ([before] if index else []), axis=1)
        solution, *_ = np.linalg.lstsq(terms, result, rcond=None)
        error = float(np.abs(terms @ solution - result).max())
        if error > _TOLERANCE:
            raise UnsupportedError(
                "a table needs a scheduler whose step is linear in x, D_i and D_{i-1}",
                f"{type(scheduler).__name__} is off by {error:.1e} at step {index}",
            )
        a, b, c = (value if abs(value) > _TOLERANCE else 0.0 for value in [*solution.tolist(), 0.0][:3])
        rows.append({"timestep": int(timestep), "alpha": alpha, "sigma": sigma, "a": a, "b": b, "c": c})
        before = clean
    return rows


def alpha_sigma(scheduler: Any, timestep: int) -> tuple[float, float]:
    """Returns α and σ of x = α·x₀ + σ·ε at a timestep of the training schedule."""
    cumulative = float(scheduler.alphas_cumprod.double()[timestep])
    return cumulative**0.5, (1.0 - cumulative) ** 0.5


def model_output(prediction_type: str, sample: Any, clean: Any, alpha: float, sigma: float) -> Any:
    """Returns the UNet output that implies the clean latent `clean` at `sample`."""
    if prediction_type == "sample":
        return clean
    noise = (sample - alpha * clean) / sigma
    return noise if prediction_type == "epsilon" else alpha * noise - sigma * clean


def scheduler_document(config: Mapping[str, Any], scaling_factor: float) -> dict[str, Any]:
    """Returns the content of `scheduler.json`: training schedule, conventions and one table per solver and length.

    Args:
        config: the checkpoint's Diffusers scheduler configuration.
        scaling_factor: latents are divided by it before decoding.
    """
    import diffusers

    solvers: dict[str, Any] = {}
    scheduler: Any = None
    for name, class_name in _SOLVERS.items():
        # Clipping to [-1, 1] is for diffusion on pixels; latents are not bounded.
        settings = {**config, "clip_sample": False}
        settings.pop("_class_name", None)
        scheduler = getattr(diffusers, class_name).from_config(settings)
        tables = {str(steps): multistep_table(scheduler, steps) for steps in STEP_COUNTS}
        solvers[name] = {"diffusers_class": class_name, "steps": tables}
    update, guidance = "x_next = a * x + b * D + c * D_previous", "prediction = uncond + scale * (text - uncond)"
    return {
        **training_schedule(scheduler, scaling_factor, update, guidance),
        "default_solver": "dpm++",
        "default_steps": 20,
        "solvers": solvers,
    }


def training_schedule(scheduler: Any, scaling_factor: float, update: str, guidance: str) -> dict[str, Any]:
    """Returns what every `scheduler.json` says first: conventions and the training schedule.

    Args:
        scheduler: a Diffusers scheduler of the checkpoint.
        scaling_factor: latents are divided by it before decoding.
        update: the step, as a formula in the names of the tables' columns.
        guidance: what is done with the guidance scale.
    """
    prediction = scheduler.config.prediction_type
    cumulative = [float(value) for value in scheduler.alphas_cumprod.double()]
    clean = {
        "epsilon": "D = (x - sigma * prediction) / alpha",
        "v_prediction": "D = alpha * x - sigma * prediction",
        "sample": "D = prediction",
    }
    return {
        "schema_version": 1,
        "prediction_type": prediction,
        "clean_latent": clean[prediction],
        "update": update,
        "guidance": guidance,
        "init_noise_sigma": 1.0,
        "scaling_factor": scaling_factor,
        "decode": "latent = x / scaling_factor",
        "num_train_timesteps": len(cumulative),
        "alphas_cumprod": cumulative,
    }
