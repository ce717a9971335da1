"""Diffusers' flow-matching scheduler with the interface of its schedulers of diffusion, which sampling loops call."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
