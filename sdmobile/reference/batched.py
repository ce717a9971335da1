"""Several pictures in one batch, for judging a checkpoint by hundreds of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.sampling import Given, Sampler, negative_row, texts_of
from sdmobile.reference.start import schedule_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sdmobile.families.component import Arrays
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.sampling import SampleRequest
    from sdmobile.reference.torch_runner import TorchRunner


def sample_batch(runner: TorchRunner, spec: PipelineSpec, requests: Sequence[SampleRequest]) -> NDArray[np.float32]:
    """Returns decoder outputs [N, 3, H, W], those of `sample` up to rounding.

    Args:
        runner: of PyTorch, whose modules take any batch.
        spec: the pipeline.
        requests: N pictures, none controlled, that differ in texts, seed and what is edited alone; a scheduler that
            draws noise by torch's generator is seeded by the first.
    """
    import torch

    sampler, family, first = Sampler(runner, spec), spec.family, requests[0]
    texts = [texts_of(spec, request) for request in requests]
    features = {text: sampler.encode(text) for text in {text for pair in texts for text in pair}}
    further = family.conditioning(first.guidance_scale, spec.geometry)
    negatives = [
        negative_row(spec, *pair) for pair in zip(requests, (features[pair[0]] for pair in texts), strict=True)
    ]
    unconditional, conditional = (
        _stacked([{**row, **further} for row in each]) for each in (negatives, [features[pair[-1]] for pair in texts])
    )
    scheduler, timesteps = schedule_of(spec, first)
    streams = [NoiseStream(request.seed, spec.latent_shape) for request in requests]
    starts = [sampler.start(request) for request in requests]
    begun = [start.latent(scheduler, timesteps, noise) for start, noise in zip(starts, streams, strict=True)]
    latent, beside = torch.cat(begun), [start.beside for start in starts if start.beside is not None]
    given = Given(unconditional, conditional, np.concatenate(beside) if beside else None)
    generator = torch.Generator().manual_seed(first.seed)
    for index, timestep in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latent, timestep).numpy()
        prediction = sampler.predict(first, scaled, float(timestep), given, index)
        latent = family.step(
            scheduler,
            torch.from_numpy(prediction),
            timestep,
            latent,
            generator,
            lambda: np.concatenate([stream.draw() for stream in streams]),
        )
    return sampler.decode(latent.numpy().astype(np.float32))


def _stacked(rows: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """Returns one row's arrays of several pictures as one batch."""
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
