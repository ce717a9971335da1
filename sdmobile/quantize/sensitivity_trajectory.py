"""The whole sampling loop as one module, so that a UNet's layers are judged by the final latent.

The error of single calls is the wrong measure for pictures: it hardly sees the text, which guidance amplifies, nor the
early steps, which decide what is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.quantize.sensitivity_study import Study
    from sdmobile.reference.sampling import SampleRequest


class Trajectory(nn.Module):
    """Initial latents [N, C, h, w] and text features without and with the prompt [N, S, D] -> final latents.

    It is `reference.sampling.Sampler.denoise` with gradients: x_{t−1} = step(x_t, ε_u + s·(ε_c − ε_u)).

    Args:
        unet: the Diffusers UNet.
        scheduler_config: of a deterministic Diffusers scheduler.
        steps: scheduler steps.
        guidance: s.
        name: short name of another scheduler.
    """

    def __init__(
        self, unet: nn.Module, scheduler_config: Mapping[str, Any], steps: int, guidance: float, name: str | None = None
    ) -> None:
        super().__init__()
        self.component = unet
        self._config, self._steps, self._guidance, self._name = dict(scheduler_config), steps, guidance, name

    def forward(self, latent: Tensor, unconditional: Tensor, conditional: Tensor) -> Tensor:
        from sdmobile.families.schedulers import scheduler_from_config

        scheduler = scheduler_from_config(self._config, self._name)
        scheduler.set_timesteps(self._steps)
        context = torch.cat([unconditional, conditional])
        latent = latent * float(scheduler.init_noise_sigma)
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latent, timestep)
            both = self._predicted(torch.cat([scaled, scaled]), timestep, context)
            without, with_text = both.chunk(2)
            noise = without + self._guidance * (with_text - without) if self._guidance > 1 else with_text
            latent = scheduler.step(noise, timestep, latent, return_dict=False)[0]
        return latent

    def _predicted(self, latent: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        times = torch.full((len(latent),), float(timestep))

        def call(sample: Tensor) -> Tensor:
            return self.component(sample, times, context, return_dict=False)[0]

        # With gradients only the latents of the steps are kept, and one call's intermediate values at a time.
        predicted = recomputed(call, latent, use_reentrant=False) if torch.is_grad_enabled() else call(latent)
        assert isinstance(predicted, Tensor)
        return predicted


def open_trajectories(checkpoint: Checkpoint, requests: Sequence[SampleRequest]) -> Study:
    """Returns the sampling loop under study: one row per picture, its output the final latent.

    Args:
        checkpoint: the opened checkpoint.
        requests: pictures of one number of steps, guidance scale and scheduler.
    """
    from sdmobile.checkpoints import load_model
    from sdmobile.quantize.sensitivity_analysis import can_be_followed
    from sdmobile.quantize.sensitivity_study import Study
    from sdmobile.reference.noise import initial_latent
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.sampling import Sampler
    from sdmobile.reference.torch_runner import TorchRunner

    family = checkpoint.family
    if not can_be_followed(family):
        raise UnsupportedError(
            "a trajectory is that of classifier-free guidance, without a picture to repaint or to control",
            family.title,
            "Use --through call",
        )
    spec = PipelineSpec.from_checkpoint(checkpoint)
    sampler = Sampler(TorchRunner(checkpoint, spec.geometry), spec)
    rows = tuple(
        (
            torch.from_numpy(initial_latent(request.seed, spec.latent_shape)),
            torch.from_numpy(next(iter(sampler.encode(request.negative).values()))),
            torch.from_numpy(next(iter(sampler.encode(request.prompt).values()))),
        )
        for request in requests
    )
    first = requests[0]
    unet = load_model(checkpoint, family.denoiser.model)
    loop = Trajectory(unet, spec.scheduler_config, first.steps, first.guidance_scale, first.scheduler)
    return Study(family.denoiser.name, loop.eval().requires_grad_(False), rows)
