"""InstructPix2Pix: latents as Diffusers' own pipeline makes them, three rows of guidance, what apps are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sdmobile.checkpoints import load_model, open_checkpoint
from sdmobile.cli.app import app
from sdmobile.errors import SdmobileError, UnsupportedError, UsageError
from sdmobile.families import family_named
from sdmobile.families.contracts import contract_for
from sdmobile.families.edit import Edit
from sdmobile.formats.bundle.contracts import Geometry
from sdmobile.reference.noise import NoiseStream, standard_normal
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import ComponentCall, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.checkpoints.ldm_layout import clip_to_ldm, unet_to_ldm, vae_to_ldm
from tests.families.diffusers_latents import assert_same, diffusers_latents
from tests.families.tiny import write_tiny

EDITING = family_named("instruct-pix2pix")
PIXELS = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
EDIT = Edit(PIXELS.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(EDITING.name, tmp_path_factory.mktemp("pix2pix") / "tiny")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    from diffusers import StableDiffusionInstructPix2PixPipeline

    return StableDiffusionInstructPix2PixPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)


@pytest.mark.parametrize(
    ("guidance", "scale", "image_scale", "scheduler"),
    [
        ("batch3", 7.5, None, "DDIMScheduler"),
        ("batch3", 4.0, 2.25, "EulerDiscreteScheduler"),
        ("separate", 4.0, 1.0, "DPMSolverMultistepScheduler"),
        ("batch3", 1.0, None, "DDIMScheduler"),
        ("separate", 1.0, None, "DDIMScheduler"),
    ],
)
def test_latents_and_picture_are_those_of_diffusers(
    folder: Path, pipeline: Any, guidance: str, scale: float, image_scale: float | None, scheduler: str
) -> None:
    """With its default image guidance scale too, and without guidance, where Diffusers computes one row."""
    import diffusers

    checkpoint = open_checkpoint(folder)
    request = SampleRequest("make it red", "blue", 4, 7, scale, scheduler, EDIT, (), image_scale)
    spec = PipelineSpec.from_checkpoint(checkpoint, guidance)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request)
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config, clip_sample=False)
    noise = torch.from_numpy(standard_normal(7, spec.latent_shape).astype(np.float32))
    more = {} if image_scale is None else {"image_guidance_scale": image_scale}
    theirs = diffusers_latents(pipeline, request, Image.fromarray(PIXELS), latents=noise, **more)
    assert len(theirs) == 4
    assert_same(ours.latents, theirs)
    with torch.no_grad():
        wanted = pipeline.vae.decode(torch.from_numpy(theirs[-1]) / checkpoint.scaling_factor).sample.numpy()
    error = float(np.square(ours.image - wanted).mean())
    assert 10 * np.log10(float(np.ptp(wanted)) ** 2 / max(error, 1e-20)) > 60


def test_picture_and_both_scales_matter(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    spec = PipelineSpec.from_checkpoint(checkpoint)
    runner = TorchRunner(checkpoint, spec.geometry)
    base = SampleRequest("make it red", "", 2, 7, 4.0, "ddim", EDIT)
    changed = (
        replace(base, edit=Edit(-EDIT.image)),
        replace(base, image_guidance_scale=3.0),
        replace(base, guidance_scale=8.0),
    )
    first, *others = (sample(runner, spec, request).image for request in (base, *changed))
    assert all(np.abs(first - other).max() > 1e-3 for other in others)


@pytest.mark.parametrize(("guidance", "calls"), [("batch3", 1), ("separate", 3)])
def test_the_denoiser_sees_what_apps_are_told(folder: Path, guidance: str, calls: int) -> None:
    """Rows in the documented order, the picture's latent unscaled and zeros in the last; the formula gives the step."""
    checkpoint = open_checkpoint(folder)
    spec = PipelineSpec.from_checkpoint(checkpoint, guidance)
    runner = TorchRunner(checkpoint, spec.geometry)
    seen: list[ComponentCall] = []
    request = SampleRequest("make it red", "blue", 1, 1, 4.0, "ddim", EDIT, (), 2.5)
    result = sample(runner, spec, request, seen.append)
    assert [call.component for call in seen] == [*["text_encoder"] * 2, "vae_encoder", *["unet"] * calls, "vae_decoder"]
    assert sum(spec.family.calls_of(part, spec.guidance, 1) for part in spec.family.components) == len(seen)
    denoised = [call for call in seen if call.component == "unet"]
    samples = np.concatenate([call.inputs["sample"] for call in denoised])
    texts = np.concatenate([call.inputs["encoder_hidden_states"] for call in denoised])
    assert samples.shape == (3, 8, 16, 16)

    facts = EDITING.app_facts(checkpoint)["instruct_pix2pix"]
    assert facts["channels"] == {"noisy_latents": [0, 4], "image_latents": [4, 8]}
    assert [row["name"] for row in facts["rows"]] == ["text", "image", "uncond"]
    moments = runner.run("vae_encoder", {"image": EDIT.image})["moments"]
    encoded = [call.outputs["last_hidden_state"][0] for call in seen if call.component == "text_encoder"]
    for row, said in enumerate(facts["rows"]):
        np.testing.assert_array_equal(samples[row, :4], NoiseStream(1, spec.latent_shape).draw()[0])
        picture = moments[0, :4] if said["image_latents"] == "the picture's" else np.zeros((4, 16, 16))
        np.testing.assert_array_equal(samples[row, 4:], picture)
        np.testing.assert_array_equal(texts[row], encoded[1 if said["text"] == "the prompt" else 0])

    predicted = np.concatenate([call.outputs["noise_pred"] for call in denoised])
    named = {row["name"]: predicted[index] for index, row in enumerate(facts["rows"])}
    guided = eval(facts["guidance"].removeprefix("prediction = "), {}, {**named, "scale": 4.0, "image_scale": 2.5})
    scheduler = spec.family.scheduler(spec.scheduler_config, "ddim", 1)
    start = torch.from_numpy(NoiseStream(1, spec.latent_shape).draw())
    wanted = scheduler.step(torch.from_numpy(guided)[None], scheduler.timesteps[0], start).prev_sample
    np.testing.assert_allclose(result.latents[-1], wanted, rtol=1e-5, atol=1e-5)
    document = EDITING.scheduler_document(checkpoint.scheduler_config, checkpoint.scaling_factor)
    assert document["guidance"].startswith(facts["guidance"])


def test_a_sampler_that_draws_noise_has_tables_with_a_column_for_it(folder: Path) -> None:
    """As the trained checkpoint asks for it."""
    schedule = {**open_checkpoint(folder).scheduler_config, "_class_name": "EulerAncestralDiscreteScheduler"}
    document = EDITING.scheduler_document(schedule, 0.18215)
    assert (document["default_solver"], document["default_steps"]) == ("euler-a", 20)
    assert document["update"] == "x_next = a * x + b * D + n * z"


def test_both_phones_files_take_eight_channels_and_three_rows() -> None:
    geometry = Geometry(3, 4, 16, 12, 64, 48, 77, 128)
    inputs = {t: contract_for(EDITING, t, "unet", geometry).inputs[0] for t in ("ios", "android", "onnx")}
    shapes = {"ios": (3, 8, 16, 12), "android": (3, 16, 12, 8), "onnx": (3, 8, 16, 12)}
    assert {target: spec.shape for target, spec in inputs.items()} == shapes
    assert all("row 1 with the picture alone" in spec.description for spec in inputs.values())


def test_a_single_file_is_recognised_by_its_channels(folder: Path, tmp_path: Path) -> None:
    """It has no pipeline to name: what the further channels are is assumed, with a note."""
    from safetensors.torch import save_file

    checkpoint = open_checkpoint(folder)
    tensors = {
        **unet_to_ldm(load_model(checkpoint, "unet").state_dict(), 1),
        **vae_to_ldm(load_model(checkpoint, "vae").state_dict(), 2),
        **clip_to_ldm(load_model(checkpoint, "text_encoder").state_dict()),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "edit.safetensors")
    opened = open_checkpoint(tmp_path / "edit.safetensors")
    assert opened.family is EDITING
    assert opened.components["unet"].config["in_channels"] == 8
    assert "unet" not in opened.misfits
    assert any("change by instruction assumed" in note for note in opened.notes)


def test_another_pipeline_of_eight_channels_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(folder, tmp_path / "depth")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "_class_name": "MarigoldDepthPipeline"}))
    with pytest.raises(UnsupportedError, match=r"8 input channels for 4 latent channels \(image editing or upscaling"):
        open_checkpoint(copy)


@pytest.mark.parametrize("scale", [0.5, float("nan"), float("inf")])
def test_a_scale_that_guides_nowhere_is_refused(scale: float) -> None:
    with pytest.raises(UsageError, match="image guidance scale must be a number of at least 1"):
        SampleRequest("x", image_guidance_scale=scale)


def test_options_that_do_not_fit_are_refused(folder: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "image.png")

    def said(*arguments: object) -> str:
        usual = ("--prompt", "x", "--steps", "1", "--output", tmp_path / "out.png")
        result = CliRunner().invoke(app, ["generate", *map(str, (*arguments, *usual))])
        assert isinstance(result.exception, SdmobileError), result.output
        assert not (tmp_path / "out.png").exists()
        return str(result.exception)

    image = ("--image", tmp_path / "image.png")
    assert "Give --image" in said(folder)
    assert "for inpainting models" in said(folder, *image, "--mask", tmp_path / "image.png")
    assert "has no strength" in said(folder, *image, "--strength", "0.5")
    assert "at least 1" in said(folder, *image, "--image-guidance", "0.5")
    assert "take a --guidance above 1" in said(folder, *image, "--image-guidance", "2", "--guidance", "1")
    assert "Leave it out" in said(tiny_checkpoint, "--image-guidance", "2")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    assert "takes no control network" in said(folder, *image, "--control-model", tmp_path)


def test_a_picture_tells_how_it_was_guided(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    for given, told in (((), "1.5"), (("--image-guidance", "2"), "2")):
        usual = ("generate", folder, "--image", tmp_path / "image.png", "--prompt", "x", "--steps", "1")
        result = CliRunner().invoke(app, [*map(str, usual), *given, "--overwrite", "-o", str(tmp_path / "out.png")])
        assert result.exit_code == 0, result.output
        assert Image.open(tmp_path / "out.png").info["image_guidance"] == told
