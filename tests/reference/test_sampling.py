from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.basics.metrics import to_pixels
from sdmobile.checkpoints import Checkpoint
from sdmobile.errors import SdmobileError
from sdmobile.families.schedulers import scheduler_from_config
from sdmobile.reference.noise import NoiseStream, standard_normal
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import ComponentCall, SampleRequest, sample, sample_all, timesteps_of
from sdmobile.reference.torch_runner import TorchRunner

REQUEST = SampleRequest("a large red circle on white", negative="blue", steps=5, seed=3)


@pytest.fixture(scope="module")
def diffusers_pipeline(checkpoint: Checkpoint) -> Any:
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        str(checkpoint.path), safety_checker=None, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def reference_image(pipeline: Any, spec: PipelineSpec, request: SampleRequest) -> np.ndarray:
    """The picture of Diffusers' own pipeline from the same latent, in [−1, 1] as [1, 3, H, W]."""
    import torch

    pipeline.scheduler = scheduler_from_config(dict(spec.scheduler_config), request.scheduler)
    pixels = pipeline(
        request.prompt,
        negative_prompt=request.negative,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        latents=torch.from_numpy(standard_normal(request.seed, spec.latent_shape).astype(np.float32)),
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    ).images
    return pixels.transpose(0, 3, 1, 2) * 2 - 1


@pytest.mark.parametrize("guidance", ["batch2", "separate"])
@pytest.mark.parametrize("scheduler", [None, "ddim", "pndm", "dpm++", "euler", "heun", "euler-a"])
def test_images_are_those_of_diffusers(
    diffusers_pipeline: Any,
    torch_runner: TorchRunner,
    spec: PipelineSpec,
    scheduler: str | None,
    guidance: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = replace(REQUEST, scheduler=scheduler)
    mine = sample(torch_runner, replace(spec, guidance=spec.family.guidance(guidance)), request).image
    noise = NoiseStream(request.seed, spec.latent_shape)
    noise.draw()  # the initial latent; an ancestral step takes the next values, not torch's
    room = "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor"
    monkeypatch.setattr(room, lambda *_, **__: torch.from_numpy(noise.draw()))
    expected = reference_image(diffusers_pipeline, spec, request)
    assert expected.std() > 0.1
    np.testing.assert_allclose(np.clip(mine, -1, 1), expected, atol=1e-4)


@pytest.mark.parametrize("guidance", ["batch2", "separate"])
def test_no_guidance_is_that_of_diffusers(
    diffusers_pipeline: Any, torch_runner: TorchRunner, spec: PipelineSpec, guidance: str
) -> None:
    request = replace(REQUEST, guidance_scale=1.0, scheduler="ddim")
    calls: list[ComponentCall] = []
    mine = sample(torch_runner, replace(spec, guidance=spec.family.guidance(guidance)), request, calls.append).image
    np.testing.assert_allclose(np.clip(mine, -1, 1), reference_image(diffusers_pipeline, spec, request), atol=1e-4)
    assert sum(call.component == "unet" for call in calls) == 5


def test_every_call_is_observed_in_canonical_form(torch_runner: TorchRunner, spec: PipelineSpec) -> None:
    calls: list[ComponentCall] = []
    steps: list[tuple[int, int]] = []
    request = replace(REQUEST, scheduler="ddim", steps=4)
    result = sample(torch_runner, spec, request, calls.append, lambda *at: steps.append(at))
    assert Counter(call.component for call in calls) == {"text_encoder": 2, "unet": 4, "vae_decoder": 1}
    g = spec.geometry
    unet = [call for call in calls if call.component == "unet"]
    assert [call.step for call in unet] == [0, 1, 2, 3]
    assert [call.timestep for call in unet] == result.timesteps == timesteps_of(spec, request)
    inputs = unet[0].inputs
    assert inputs["sample"].shape == (2, g.latent_channels, g.latent_height, g.latent_width)
    assert inputs["timestep"].shape == (2,)
    assert inputs["encoder_hidden_states"].shape == (2, g.context_length, g.context_dim)
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.float32)}
    by_text = [call.outputs["last_hidden_state"] for call in calls if call.component == "text_encoder"]
    np.testing.assert_array_equal(inputs["encoder_hidden_states"][0], by_text[0][0])  # the negative prompt comes first
    np.testing.assert_array_equal(inputs["encoder_hidden_states"][1], by_text[1][0])
    assert calls[0].inputs["input_ids"].dtype == np.int64
    decoder = calls[-1]
    np.testing.assert_allclose(decoder.inputs["latent"] * spec.scaling_factor, result.latents[-1], rtol=1e-6)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert set(result.seconds) == {"text_encoder", "unet", "vae_decoder"}


def test_pictures_together_equal_pictures_alone(checkpoint: Checkpoint, spec: PipelineSpec) -> None:
    requests = [REQUEST, replace(REQUEST, prompt="a small blue star", seed=4)]
    together = sample_all(TorchRunner(checkpoint), spec, requests, release=True)
    for request, result in zip(requests, together, strict=True):
        alone = sample(TorchRunner(checkpoint), spec, request)
        np.testing.assert_array_equal(result.image, alone.image)
    assert np.abs(together[0].image - together[1].image).max() > 0.1


def test_prompt_too_long_is_cut_and_tokens_are_padded(torch_runner: TorchRunner, spec: PipelineSpec) -> None:
    from sdmobile.reference.sampling import Sampler

    sampler = Sampler(torch_runner, spec)
    short, long = sampler.tokenize("circle"), sampler.tokenize("circle " * 200)
    assert short.shape == long.shape == (1, spec.geometry.context_length)
    assert long[0, -1] == short[0, 2]  # both end with the end-of-text token


def test_an_unknown_scheduler_is_refused(torch_runner: TorchRunner, spec: PipelineSpec) -> None:
    with pytest.raises(SdmobileError, match="scheduler"):
        sample(torch_runner, spec, replace(REQUEST, scheduler="magic"))


def test_pixels() -> None:
    image = np.zeros((1, 3, 1, 5), np.float32)
    image[0, :, 0] = [-1.0, 0.0, 1.0, 7.0, np.nan]
    assert to_pixels(image)[0, :, 0].tolist() == [0, 128, 255, 255, 0]
