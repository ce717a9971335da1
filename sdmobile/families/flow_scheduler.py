"""Diffusers' flow-matching scheduler with the interface of its schedulers of diffusion, which sampling loops call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from sdmobile.families.flow_matching import size_shift

if TYPE_CHECKING:
    from torch import Tensor


class FlowEuler(FlowMatchEulerDiscreteScheduler):
    """The same steps; noise is taken as it is drawn, and latents as they are."""

    init_noise_sigma = 1.0
    tokens: int | None = None
    """Of the picture, where its size counts."""

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
    """The same with σ in even steps before the shift: 1, 1 − 1/n, …, 1/n, as Z-Image and FLUX.2 have them."""

    def set_timesteps(self, num_inference_steps: int, *args: Any, **kwargs: Any) -> None:
        """Sets the noise levels of n steps."""
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()
        sized = {} if self.tokens is None else {"mu": size_shift(self.tokens, num_inference_steps)}
        super().set_timesteps(*args, sigmas=sigmas, **sized, **kwargs)
