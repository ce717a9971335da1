"""Diffusers' flow-matching scheduler with the interface of its schedulers of diffusion, which sampling loops call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

if TYPE_CHECKING:
    from torch import Tensor


class FlowEuler(FlowMatchEulerDiscreteScheduler):
    """The same steps; noise is taken as it is drawn, and latents as they are."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Returns the latent as the denoiser takes it at a timestep: unchanged."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Returns (1 − σ)·x₀ + σ·ε.

        Args:
            original_samples: x₀, [N, C, h, w].
            noise: ε, [N, C, h, w].
            timesteps: whose σ it is, [N].
        """
        noisy = self.scale_noise(original_samples, timesteps, noise)  # pyright: ignore[reportArgumentType]
        return noisy  # pyright: ignore[reportReturnType]


class EvenFlowEuler(FlowEuler):
    """The same with σ in even steps before the shift: 1, 1 − 1/n, …, 1/n, as pipelines of Z-Image ask for them."""

    def set_timesteps(self, num_inference_steps: int, *args: Any, **kwargs: Any) -> None:
        """Sets the noise levels of n steps."""
        sigmas = torch.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()
        super().set_timesteps(*args, sigmas=sigmas, **kwargs)
