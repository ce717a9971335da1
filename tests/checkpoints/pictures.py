"""Pictures by Diffusers' own pipeline from the noise that sampling here starts with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.reference.sampling import SampleRequest


def pipeline_of(folder: Path, **models: Any) -> Any:
    """Returns StableDiffusionPipeline on a folder in float32, with DDIM, and with other models where given."""
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    pipeline: Any = StableDiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32, **models)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, steps_offset=1)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def diffusers_picture(pipeline: Any, request: SampleRequest, **options: Any) -> NDArray[np.float32]:
    """Returns the picture [1, 3, H, W] in [−1, 1], not rounded, that a pipeline makes of a request."""
    import torch

    from sdmobile.reference.noise import NoiseStream

    if (size := options.pop("size", None)) is not None:
        options |= {"height": size[0], "width": size[1]}
        cells = tuple(side // pipeline.vae_scale_factor for side in size)
    else:
        cells = (pipeline.unet.config.sample_size,) * 2
    shape = (1, pipeline.unet.config.in_channels, *cells)
    latents = torch.from_numpy(NoiseStream(request.seed, shape).draw()).float()
    settings = {
        "negative_prompt": request.negative,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "latents": latents,
        "output_type": "latent",
    }
    result = pipeline(request.prompt, **{**settings, **options})
    with torch.inference_mode():
        latent = result.images / pipeline.vae.config.scaling_factor
        return pipeline.vae.decode(latent, return_dict=False)[0].numpy()


def psnr(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Returns decibels over the range of pixels, 2."""
    error = float(np.square(found.astype(np.float64) - expected).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(4 / error))
