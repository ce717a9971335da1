"""The whole sampling loop as one module, so that a UNet's layers are judged by the final latent.

The error of single calls is the wrong measure for pictures: it hardly sees the text, which guidance amplifies, nor the
early steps, which decide what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.families.component import Component
    from sdmobile.quantize.sensitivity_study import Study
    from sdmobile.reference.sampling import SampleRequest


class Trajectory(nn.Module):
    """Initial latents [N, C, h, w] and what the texts give, without and with the prompt, [N, …] each -> final latents.

    It is `reference.sampling.Sampler.denoise` with gradients: x_{t−1} = step(x_t, ε_u + s·(ε_c − ε_u)).

    Args:
        unet: the Diffusers UNet.
        denoiser: says how it is called.
        scheduler: makes a deterministic Diffusers scheduler with its timesteps.
        guidance: s.
        texts: names of the inputs that texts give, in the order of the arguments.
    """

    def __init__(
        self,
        unet: nn.Module,
        denoiser: Component,
        scheduler: Callable[[], Any],
        guidance: float,
        texts: Sequence[str] = ("encoder_hidden_states",),
    ) -> None:
        super().__init__()
        self.component = unet
        self._call, self._texts = denoiser.reference, tuple(texts)
        self._scheduler, self._guidance = scheduler, guidance

    def forward(self, latent: Tensor, *features: Tensor) -> Tensor:
        scheduler = self._scheduler()
        pairs = zip(features[: len(self._texts)], features[len(self._texts) :], strict=True)
        context = {name: torch.cat(pair) for name, pair in zip(self._texts, pairs, strict=True)}
        latent = latent * float(scheduler.init_noise_sigma)
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latent, timestep)
            both = self._predicted(torch.cat([scaled, scaled]), timestep, context)
            without, with_text = both.chunk(2)
            noise = without + self._guidance * (with_text - without) if self._guidance > 1 else with_text
            latent = scheduler.step(noise, timestep, latent, return_dict=False)[0]
        return latent

    def _predicted(self, latent: Tensor, timestep: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        times = torch.full((len(latent),), float(timestep))

        def call(sample: Tensor) -> Tensor:
            predicted = self._call(self.component, {"sample": sample, "timestep": times, **context})
            assert isinstance(predicted, Tensor)
            return predicted

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
    from sdmobile.reference.sampling import Sampler, negative_row
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
    first = requests[0]
    further = family.conditioning(first.guidance_scale, spec.geometry)
    texts = [(negative_row(spec, one, sampler.encode(one.negative)), sampler.encode(one.prompt)) for one in requests]
    names = (*texts[0][1], *further)
    rows = tuple(
        (initial_latent(request.seed, spec.latent_shape), *({**row, **further}[name] for row in pair for name in names))
        for request, pair in zip(requests, texts, strict=True)
    )
    unet = load_model(checkpoint, family.denoiser.model)
    scheduler = partial(family.scheduler, spec.scheduler_config, first.scheduler, first.steps)
    loop = Trajectory(unet, family.denoiser, scheduler, first.guidance_scale, names)
    tensors = tuple(tuple(map(torch.from_numpy, row)) for row in rows)
    return Study(family.denoiser.name, loop.eval().requires_grad_(False), tensors)
