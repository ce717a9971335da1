"""The noise that a prediction of v implies, inside the network, for samplers that know nothing else.

Apple's Swift package reads every UNet's output as ε. A UNet that was distilled in v can still be driven by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

KEYS = frozenset({"num_train_timesteps", "beta_schedule", "beta_start", "beta_end"})
# float16 holds every whole number up to it.
_MOST_TIMESTEPS = 2048


class NoiseFromV(nn.Module):
    """ε = x + (α_t·v − (1 − σ_t)·x), which is α_t·v + σ_t·x; α_t² = ᾱ_t, σ_t² = 1 − ᾱ_t.

    α_t and 1 − σ_t are products of a table with the unit vector of t, relu(1 − |t − k|), so that every operator is one
    of floating-point numbers that a phone's GPU has. 1 − σ_t is small where the noise is large: there float16 holds it,
    not σ_t, and a sampler that divides by a small α_t finds x again.

    Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv 2202.00512, appendix D.

    Args:
        schedule: of the training: num_train_timesteps, at most 2048, beta_schedule, beta_start and beta_end as of
            Diffusers' DDPMScheduler.

    Raises:
        ValueError: other keys, or more timesteps.
    """

    timesteps: Tensor
    signal: Tensor
    missing: Tensor

    def __init__(self, schedule: Mapping[str, Any]) -> None:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        super().__init__()
        if not isinstance(schedule, Mapping) or set(schedule) != KEYS:
            raise ValueError(f"noise_schedule must have {', '.join(sorted(KEYS))}; not {schedule}")
        steps = schedule["num_train_timesteps"]
        if type(steps) is not int or not 1 <= steps <= _MOST_TIMESTEPS:
            raise ValueError(f"num_train_timesteps must be a whole number up to {_MOST_TIMESTEPS}; not {steps}")
        with torch.device("cpu"):  # also where the module is made on the meta device: the tables are not stored
            cumulative = DDPMScheduler(**schedule).alphas_cumprod.double()
            timesteps = torch.arange(steps).float()
        if not bool(((cumulative > 0) & (cumulative < 1)).all()):
            raise ValueError(f"noise_schedule must leave a share of signal and of noise at every step; not {schedule}")
        self.register_buffer("timesteps", timesteps, persistent=False)
        self.register_buffer("signal", cumulative.sqrt().float(), persistent=False)
        self.register_buffer("missing", (1 - (1 - cumulative).sqrt()).float(), persistent=False)

    def forward(self, v: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Returns ε, [N, C, h, w].

        Args:
            v: prediction, [N, C, h, w].
            noisy: x_t, [N, C, h, w].
            timestep: t, [N] or [], also between integers.
        """
        near = torch.relu(1 - (timestep.reshape(-1, 1).to(v.dtype) - self.timesteps).abs())
        signal, missing = (
            nn.functional.linear(near, row[None])[:, :, None, None] for row in (self.signal, self.missing)
        )
        return noisy + (signal * v - missing * noisy)
