"""Where sampling starts: from noise, or from a picture that noise was added to, at some step of the schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from sdmobile.families.component import Run
    from sdmobile.reference.noise import NoiseStream
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.sampling import SampleRequest


@dataclass(frozen=True)
class Start:
    """What a picture gives to the sampling loop.

    Args:
        clean: its latent, [1, C, h, w], which noise is added to; None to start from noise alone.
        beside: what the denoiser takes after the noisy latent, [1, K, h, w]; None for nothing.
    """

    clean: NDArray[np.float32] | None = None
    beside: NDArray[np.float32] | None = None

    def latent(self, scheduler: Any, timesteps: Tensor, noise: NoiseStream) -> Tensor:
        """Returns the latent before the first of the timesteps: σ·z, or the scheduler's mixture with a picture."""
        import torch

        if self.clean is None:
            return torch.from_numpy(noise.draw(float(scheduler.init_noise_sigma)))
        return scheduler.add_noise(torch.from_numpy(self.clean), torch.from_numpy(noise.draw()), timesteps[:1])


def start_of(spec: PipelineSpec, request: SampleRequest, run: Run) -> Start:
    """Encodes the picture of a request, where there is one or the denoiser takes one.

    Args:
        spec: the pipeline.
        request: the picture to make.
        run: computes the image encoder.
    """
    family = spec.family
    edit = request.edit or family.usual_edit(request.seed, spec.geometry)
    if edit is None:
        return Start()

    def encode(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return family.encode_image(image, run)

    def clean(image: NDArray[np.float32]) -> NDArray[np.float32]:
        encoded = encode(image)
        shifted = encoded - np.float32(spec.shift_factor) if spec.shift_factor else encoded
        return shifted * np.float32(spec.scaling_factor)

    from_noise = family.takes_picture and edit.strength == 1.0
    return Start(
        None if from_noise else clean(edit.image),
        family.beside_latent(edit, spec.geometry, spec.scaling_factor, encode),
    )


def schedule_of(spec: PipelineSpec, request: SampleRequest) -> tuple[Any, Tensor]:
    """Returns the scheduler of a request and the timesteps to run: the last ones, by the strength of its edit.

    Which ones is as in Diffusers' StableDiffusionImg2ImgPipeline.
    """
    scheduler = spec.family.scheduler(spec.scheduler_config, request.scheduler, request.steps)
    if request.edit is None:
        return scheduler, scheduler.timesteps
    first = (request.steps - request.edit.steps_of(request.steps)) * getattr(scheduler, "order", 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return scheduler, scheduler.timesteps[first:]
