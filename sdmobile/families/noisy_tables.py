"""Tables of the schedulers that draw noise in their steps: consistency models' and ancestral Euler's.

    x_{i+1} = a_i·x_i + b_i·D_i + n_i·z_i        z_i the next values of the documented noise, D_i the clean latent

x_i is what the UNet takes, x = α·x₀ + σ·ε with α² + σ² = 1.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from sdmobile.families.schedulers import ancestral_sigmas


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


def plain(timestep: Any) -> float:
    """Returns a timestep as an int where it is whole; some schedulers go between those of the training schedule."""
    value = float(timestep)
    return int(value) if value.is_integer() else value


def consistency_table(scheduler: Any) -> list[dict[str, float]]:
    """Returns the linear update of every step of an LCMScheduler whose timesteps are set.

    Args:
        scheduler: of Diffusers; it is stepped to its end.

    Returns:
        One row per step: timestep, alpha and sigma (of x = α·x₀ + σ·ε), a, b and n of
        x_next = a·x + b·D + n·z.
    """
    import torch

    # f is linear in x and D, so its coefficients are its values at (1, 0) and (0, 1), taken in one elementwise step.
    sample, clean = torch.eye(2, dtype=torch.float64)
    rows = []
    timesteps = [int(timestep) for timestep in scheduler.timesteps]
    for timestep, following in zip_longest(timesteps, timesteps[1:]):
        alpha, sigma = alpha_sigma(scheduler, timestep)
        output = model_output(scheduler.config.prediction_type, sample, clean, alpha, sigma)
        by_sample, by_clean = scheduler.step(output, timestep, sample, return_dict=False)[1].tolist()
        signal, noise = (1.0, 0.0) if following is None else alpha_sigma(scheduler, following)
        row = {"timestep": timestep, "alpha": alpha, "sigma": sigma}
        rows.append({**row, "a": signal * by_sample, "b": signal * by_clean, "n": noise})
    return rows


def ancestral_table(scheduler: Any) -> list[dict[str, float]]:
    """Returns the linear update of every step of an EulerAncestralDiscreteScheduler whose timesteps are set.

        y_next = (↓/s)·y + (1 − ↓/s)·D + ↑·z,   y = x/α, s = σ/α;  ↓² + ↑² = s_next²        (`ancestral_sigmas`)

    Args:
        scheduler: of Diffusers.

    Returns:
        One row per step: timestep, alpha and sigma (of x = α·x₀ + σ·ε), a, b and n.
    """
    rows = []
    for index, timestep in enumerate(scheduler.timesteps):
        ratio, following, down, up = ancestral_sigmas(scheduler, index)
        alpha, scale = (1.0 + ratio * ratio) ** -0.5, (1.0 + following * following) ** -0.5
        kept = down / ratio
        row = {"timestep": plain(timestep), "alpha": alpha, "sigma": ratio * alpha}
        rows.append({**row, "a": kept / alpha * scale, "b": (1.0 - kept) * scale, "n": up * scale})
    return rows
