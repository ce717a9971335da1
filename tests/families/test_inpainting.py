"""Inpainting and image to image: latents as Diffusers' own pipelines make them, recognition, what apps are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdmobile.checkpoints import load_model, open_checkpoint
from sdmobile.errors import CheckpointError, UnsupportedError, UsageError
from sdmobile.families import FAMILIES, family_named
from sdmobile.families.contracts import contract_for
from sdmobile.families.edit import Edit
from sdmobile.formats.bundle.contracts import Geometry
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.recording import record
from sdmobile.reference.recording_cache import recording_key
from sdmobile.reference.sampling import ComponentCall, SampleRequest, sample, timesteps_of
from sdmobile.reference.torch_runner import TorchRunner
from tests.checkpoints.ldm_layout import clip_to_ldm, unet_to_ldm, vae_to_ldm
from tests.families.diffusers_latents import assert_same, diffusers_latents
from tests.families.tiny import write_tiny

SD = family_named("stable-diffusion-inpainting")
MOBILE = family_named("mobile-diffusion-inpainting")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(SD.name, tmp_path_factory.mktemp("inpainting") / "tiny")


def _pictures() -> tuple[Image.Image, Image.Image]:
    rng = np.random.default_rng(3)
    mask = np.zeros((32, 32), np.uint8)
    mask[5:21, 9:30] = 255
    return Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)), Image.fromarray(mask)


def _edit(strength: float, masked: bool) -> Edit:
    image, mask = _pictures()
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    white = (np.asarray(mask)[None, None] > 127).astype(np.float32)
    return Edit(pixels, white if masked else None, strength)


def _theirs(pipeline: Any, request: SampleRequest, monkeypatch: pytest.MonkeyPatch, module: str, **more: Any) -> Any:
    """Returns the latents of Diffusers' pipeline on the documented noise, with the mean of every encoded picture."""
    import importlib

    noise = NoiseStream(request.seed, (1, 4, 16, 16))
    room = importlib.import_module(module)
    monkeypatch.setattr(room, "randn_tensor", lambda *_, **__: torch.from_numpy(noise.draw()))
    monkeypatch.setattr(room, "retrieve_latents", lambda output, **_: output.latent_dist.mode())
    return diffusers_latents(pipeline, request, **more)


@pytest.mark.parametrize(
    ("strength", "scheduler"), [(1.0, None), (1.0, "DDIMScheduler"), (0.6, "EulerDiscreteScheduler")]
)
def test_inpainting_is_that_of_diffusers(
    folder: Path, strength: float, scheduler: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    checkpoint = open_checkpoint(folder)
    assert checkpoint.family is SD
    request = SampleRequest("a red circle", "", 5, 7, 4.0, scheduler, _edit(strength, True))
    spec = PipelineSpec.from_checkpoint(checkpoint)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request)
    pipeline: Any = diffusers.StableDiffusionInpaintPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    if scheduler:
        pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config, clip_sample=False)
    image, mask = _pictures()
    theirs = _theirs(
        pipeline,
        request,
        monkeypatch,
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint",
        image=image,
        mask_image=mask,
        height=32,
        width=32,
        strength=strength,
    )
    assert_same(ours.latents, theirs)
    assert ours.timesteps == timesteps_of(spec, request)


@pytest.mark.parametrize("scheduler", [None, "DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_is_that_of_diffusers(
    tiny_checkpoint: Path, strength: float, scheduler: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    checkpoint = open_checkpoint(tiny_checkpoint)
    request = SampleRequest("a red circle", "", 6, 7, 4.0, scheduler, _edit(strength, False))
    spec = PipelineSpec.from_checkpoint(checkpoint)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request)
    pipeline: Any = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(
        str(tiny_checkpoint), torch_dtype=torch.float32
    )
    if scheduler:
        pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config, clip_sample=False)
    theirs = _theirs(
        pipeline,
        request,
        monkeypatch,
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img",
        image=_pictures()[0],
        strength=strength,
    )
    assert_same(ours.latents, theirs)


def test_the_denoiser_sees_noise_mask_and_masked_picture(folder: Path) -> None:
    """In this order, the last two alike in every step and row, and as `app_facts` tells an app to make them."""
    checkpoint = open_checkpoint(folder)
    spec = PipelineSpec.from_checkpoint(checkpoint)
    runner = TorchRunner(checkpoint, spec.geometry)
    calls: list[ComponentCall] = []
    request = SampleRequest("a red circle", "", 3, 1, 4.0, "ddim", _edit(1.0, True))
    sample(runner, spec, request, calls.append)
    assert [call.component for call in calls] == ["text_encoder"] * 2 + ["vae_encoder"] + ["unet"] * 3 + ["vae_decoder"]
    samples = [call.inputs["sample"] for call in calls if call.component == "unet"]
    assert all(x.shape == (2, 9, 16, 16) for x in samples)
    for x in samples:
        np.testing.assert_array_equal(x[:, 4:], np.repeat(samples[0][:1, 4:], 2, axis=0))
    np.testing.assert_array_equal(samples[0][0, :4], NoiseStream(1, spec.latent_shape).draw()[0])

    facts = SD.app_facts(checkpoint)["inpainting"]
    assert facts["channels"] == {"noisy_latents": [0, 4], "mask": [4, 5], "masked_image_latents": [5, 9]}
    edit = _edit(1.0, True)
    assert edit.mask is not None
    np.testing.assert_array_equal(samples[0][0, 4], edit.mask[0, 0, ::2, ::2])
    masked = np.where(edit.mask == 0, edit.image, 0).astype(np.float32)
    moments = runner.run("vae_encoder", {"image": masked})["moments"]
    np.testing.assert_allclose(samples[0][:1, 5:], moments[:, :4] * checkpoint.scaling_factor, atol=1e-6)


@pytest.mark.parametrize("family", [SD, MOBILE], ids=lambda family: family.name)
def test_both_phones_files_take_nine_channels(family: Any) -> None:
    geometry = Geometry(2, 4, 16, 12, 64, 48, 77, 128)
    shapes = {t: contract_for(family, t, "unet", geometry).inputs[0].shape for t in ("ios", "android", "onnx")}
    assert shapes == {"ios": (2, 9, 16, 12), "android": (2, 16, 12, 9), "onnx": (2, 9, 16, 12)}
    outputs = {t: contract_for(family, t, "unet", geometry).outputs[0].shape for t in ("ios", "android")}
    assert outputs == {"ios": (2, 4, 16, 12), "android": (2, 16, 12, 4)}


def test_a_recording_needs_no_picture_and_has_one(folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder)
    spec = PipelineSpec.from_checkpoint(checkpoint)
    requests = [SampleRequest("a red circle", steps=2, seed=seed) for seed in (0, 1)]
    recording = record(TorchRunner(checkpoint, spec.geometry), spec, requests, SD.names, 4)
    assert {name: len(kept) for name, kept in recording.samples.items()} == {
        "text_encoder": 2,
        "unet": 4,
        "vae_decoder": 2,
        "vae_encoder": 2,
    }
    first, second = (SD.usual_edit(seed, spec.geometry) for seed in (0, 1))
    assert first is not None
    assert first.mask is not None
    assert first == SD.usual_edit(0, spec.geometry)
    assert first != second
    assert first.mask.mean() == 0.25
    assert set(np.unique(first.mask)) == {0.0, 1.0}
    np.testing.assert_array_equal(recording.samples["vae_encoder"][0].inputs["image"], first.image * (first.mask < 0.5))
    keys = {
        recording_key("hash", spec, [SampleRequest("x", edit=edit)], SD.names, 4, True)
        for edit in (None, first, second, Edit(first.image, first.mask, 0.5), Edit(first.image))
    }
    assert len(keys) == 5


def test_a_single_file_is_recognised_by_the_first_convolution(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    checkpoint = open_checkpoint(folder)
    tensors = {
        **unet_to_ldm(load_model(checkpoint, "unet").state_dict(), 1),
        **vae_to_ldm(load_model(checkpoint, "vae").state_dict(), 2),
        **clip_to_ldm(load_model(checkpoint, "text_encoder").state_dict()),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "inpainting.safetensors")
    opened = open_checkpoint(tmp_path / "inpainting.safetensors")
    assert opened.family is SD
    assert opened.components["unet"].config["in_channels"] == 9
    assert "unet" not in opened.misfits


@pytest.mark.parametrize(
    ("name", "channels", "error", "text"),
    [
        ("stable-diffusion", 5, UnsupportedError, "depth-to-image"),
        ("stable-diffusion", 8, UnsupportedError, "image editing"),
        ("latent-consistency", 9, UnsupportedError, "inpainting"),
        ("mobile-diffusion-few-steps", 9, UnsupportedError, "inpainting"),
        ("stable-diffusion-inpainting", 4, CheckpointError, "same latent channels"),
    ],
)
def test_other_widths_are_refused(name: str, channels: int, error: type[Exception], text: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(name, tmp_path / "tiny"))
    configs = {key: dict(info.config) for key, info in checkpoint.components.items()}
    configs["unet"]["in_channels"] = channels
    with pytest.raises(error, match=text):
        checkpoint.family.facts(configs, checkpoint.scheduler_config, [])


def test_only_what_changes_pictures_needs_one_and_its_encoder() -> None:
    for family in FAMILIES:
        masked, instructed = "inpainting" in family.name, "pix2pix" in family.name
        assert ("vae_encoder" in family.sampling) == family.takes_picture == (masked or instructed)
        assert family.takes_mask == masked
        assert (family.usual_edit(0, Geometry(1, 4, 16, 16, 64, 64, 77, 8)) is not None) == family.takes_picture


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan")])
def test_a_strength_that_is_none_is_refused(strength: float) -> None:
    with pytest.raises(UsageError, match="strength"):
        Edit(np.zeros((1, 3, 8, 8), np.float32), None, strength)


def test_no_step_is_refused() -> None:
    with pytest.raises(UsageError, match="steps times strength"):
        SampleRequest("x", steps=4, edit=Edit(np.zeros((1, 3, 8, 8), np.float32), None, 0.2))
