"""SANA-Sprint: pictures as Diffusers makes them, the loop as tables, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sdmobile.checkpoints import Checkpoint, open_checkpoint
from sdmobile.checkpoints.load import load_model
from sdmobile.cli.app import app
from sdmobile.errors import CheckpointError, SdmobileError, UnsupportedError
from sdmobile.families import family_named
from sdmobile.families.edit import Edit, coloured_blocks
from sdmobile.families.sana import GUIDANCE, MASK
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import Sampler, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.families.diffusers_latents import assert_same, diffusers_latents
from tests.families.tiny import sana_sprint as tiny

SANA = family_named("sana-sprint")
PROMPT = "  A small RED circle on white "
ROWS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("sana") / "tiny")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    from diffusers import SanaSprintPipeline

    made: Any = SanaSprintPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    return made


def scales(scheduler: Any) -> list[float]:
    """Returns σ_d·(cos t + sin t) after each step, by which Diffusers' latents are ours."""
    angles = scheduler.timesteps[1:].double()
    return (scheduler.config.sigma_data * (angles.cos() + angles.sin())).tolist()


@pytest.mark.parametrize(
    "case",
    [(2, (32, 32), 4.5), (1, (64, 32), 4.5), (3, (32, 32), 1.0)],
    ids=["usual", "one step, not square", "three steps, another scale"],
)
def test_latents_and_picture_are_those_of_diffusers(
    case: tuple[int, tuple[int, int], float], checkpoint: Checkpoint, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.schedulers import scheduling_scm

    assert checkpoint.family is SANA
    steps, size, scale = case
    request = SampleRequest(PROMPT, "", steps, 7, scale)
    spec = PipelineSpec.from_checkpoint(checkpoint, None, size)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request)

    noise = NoiseStream(7, spec.latent_shape)
    first = torch.from_numpy(noise.draw())
    monkeypatch.setattr(scheduling_scm, "randn_tensor", lambda *_, **__: torch.from_numpy(noise.draw()))
    two: dict[str, Any] = {} if steps == 2 else {"intermediate_timesteps": None}
    sizes: dict[str, Any] = {"height": size[0], "width": size[1], "use_resolution_binning": False}
    theirs = diffusers_latents(pipeline, request, latents=first, **sizes, **two)
    theirs = [latent / one for latent, one in zip(theirs, scales(pipeline.scheduler), strict=True)]
    assert_same(ours.latents, theirs)
    with torch.no_grad():
        picture = pipeline.vae.decode(torch.from_numpy(theirs[-1]) / 0.41407, return_dict=False)[0].numpy()
    np.testing.assert_allclose(ours.image, picture, atol=1e-4)


@pytest.mark.parametrize("steps", [2, 4])
def test_a_picture_to_start_from_is_that_of_diffusers(
    steps: int, checkpoint: Checkpoint, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import SanaSprintImg2ImgPipeline
    from diffusers.pipelines.sana import pipeline_sana_sprint_img2img
    from diffusers.schedulers import scheduling_scm

    image = coloured_blocks(5, 32, 32)
    request = SampleRequest(PROMPT, "", steps, 7, 4.5, edit=Edit(image, strength=0.5))
    spec = PipelineSpec.from_checkpoint(checkpoint)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request)
    noise = NoiseStream(7, spec.latent_shape)
    for module in (pipeline_sana_sprint_img2img, scheduling_scm):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.from_numpy(noise.draw()))
    theirs = SanaSprintImg2ImgPipeline(**pipeline.components)
    two: dict[str, Any] = {} if steps == 2 else {"intermediate_timesteps": None}
    sizes: dict[str, Any] = {"height": 32, "width": 32, "use_resolution_binning": False}
    latents = diffusers_latents(theirs, request, image=torch.from_numpy(image), strength=0.5, **sizes, **two)
    factors = scales(pipeline.scheduler)[steps // 2 :]
    assert_same(ours.latents, [latent / one for latent, one in zip(latents, factors, strict=True)])


def test_text_features_and_mask_are_those_of_diffusers(checkpoint: Checkpoint, pipeline: Any) -> None:
    spec = PipelineSpec.from_checkpoint(checkpoint)
    ours = Sampler(TorchRunner(checkpoint, spec.geometry), spec).encode(PROMPT)
    instruction = pipeline.__call__.__wrapped__.__defaults__[-1]
    with torch.no_grad():
        theirs, mask = pipeline.encode_prompt(PROMPT, complex_human_instruction=instruction)
    np.testing.assert_array_equal(ours[MASK], mask.numpy())
    tokens = int(mask.sum())
    assert 1 < tokens < ROWS == ours["encoder_hidden_states"].shape[1]
    kept = ours[MASK][0] == 1
    np.testing.assert_allclose(
        ours["encoder_hidden_states"][0, kept], theirs.numpy()[0, kept], atol=1e-4 * float(theirs.abs().max())
    )


def by_tables(
    checkpoint: Checkpoint, document: Mapping[str, Any], request: SampleRequest, spec: PipelineSpec
) -> list[np.ndarray]:
    """Samples as an app does: by the rows of a table, and with the mask made of the identifiers."""
    sampler = Sampler(TorchRunner(checkpoint, spec.geometry), spec)
    solver = document["solvers"][document["default_solver"]]
    noise = NoiseStream(request.seed, spec.latent_shape)
    x = noise.draw() * np.float32(solver["init_noise_sigma"])
    ids = sampler.tokenize(request.prompt)
    kept = np.concatenate([ids[:, :1], ids[:, 1 - ROWS :]], axis=1)
    text = {
        "encoder_hidden_states": sampler.runner.run("text_encoder", {"input_ids": ids})["last_hidden_state"],
        MASK: np.where(kept == 0, np.float32(0), np.float32(1)),
        GUIDANCE: np.asarray([request.guidance_scale], np.float32),
    }
    latents: list[np.ndarray] = []
    for row in solver["steps"][str(request.steps)]:
        times = np.asarray([row["timestep"]], dtype=np.float32)
        prediction = sampler.runner.run("transformer", {"sample": x, "timestep": times, **text})["noise_pred"]
        clean = x - row["sigma"] * prediction
        x = row["a"] * x + row["b"] * clean + (row["n"] * noise.draw() if row["n"] else 0)
        x = x.astype(np.float32)
        latents.append(x)
    return latents


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_an_app_samples_by_the_tables(steps: int, checkpoint: Checkpoint) -> None:
    document = SANA.scheduler_document(checkpoint.scheduler_config, checkpoint.scaling_factor)
    assert (document["prediction_type"], document["default_steps"]) == ("flow", 2)
    assert document["clean_latent"] == "D = x - sigma * prediction"
    assert document["scaling_factor"] == 0.41407
    request = SampleRequest(PROMPT, "", steps, 7, 4.5)
    spec = PipelineSpec.from_checkpoint(checkpoint)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request)
    assert_same(by_tables(checkpoint, document, request, spec), ours.latents)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_exported_forward_is_that_of_diffusers(channels_last: bool, checkpoint: Checkpoint) -> None:
    module: Any = load_model(checkpoint, "transformer")
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 8, 8, 12, generator=generator)
    text = torch.randn(1, ROWS, 32, generator=generator)
    mask = (torch.arange(ROWS) < 40).float()[None]
    time, scale = torch.tensor([0.78]), torch.tensor([4.5])
    inputs = {"sample": latent, "timestep": time, "encoder_hidden_states": text, MASK: mask, GUIDANCE: scale}
    wrapped = SANA.denoiser.wrap(module, channels_last)
    given = latent.permute(0, 2, 3, 1) if channels_last else latent
    with torch.no_grad():
        theirs = module(latent, text, time, guidance=scale * 0.1, encoder_attention_mask=mask, return_dict=False)[0]
        reference: Any = SANA.denoiser.reference(module, inputs)
        ours = wrapped(given, time, text, mask, scale)
        others = [wrapped(given, time, text, torch.ones_like(mask), scale), wrapped(given, time, text, mask, scale + 1)]
    assert torch.equal(reference, theirs)
    torch.testing.assert_close(ours.permute(0, 3, 1, 2) if channels_last else ours, theirs, atol=1e-5, rtol=0)
    assert all((ours - other).abs().max() > 1e-4 for other in others)  # mask and scale matter


def test_sizes_steps_and_guidance_are_those_of_the_pipeline(checkpoint: Checkpoint, pipeline: Any) -> None:
    assert (checkpoint.usual_steps, checkpoint.usual_guidance_scale) == (2, 4.5)
    instruction = "\n".join(pipeline.__call__.__wrapped__.__defaults__[-1])
    tokens = len(pipeline.tokenizer.encode(instruction))
    assert checkpoint.context_length == tokens + ROWS - 2
    assert (checkpoint.scaling_factor, checkpoint.latent_channels) == (0.41407, 8)
    assert not checkpoint.misfits


def test_a_plan_says_that_no_package_runs_it(folder: Path) -> None:
    arguments = ["export", str(folder), "--target", "ios", "--dry-run", "--json"]
    plan = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert any("no Swift package of Apple's runs SANA-Sprint" in line for line in plan["warnings"])


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"transformer": {"caption_channels": 40}}, CheckpointError, "must take the text encoder's features"),
        ({"transformer": {"sample_size": 4096}}, CheckpointError, "up to 256"),
        ({"vae": {"latent_channels": 4}}, CheckpointError, "must have the same latent channels"),
        ({"transformer": {"guidance_embeds": False}}, UnsupportedError, "no embedding of the guidance scale"),
        ({"transformer": {"interpolation_scale": 2}}, UnsupportedError, "a table of places"),
        ({"index": {"_class_name": "SanaPipeline"}}, UnsupportedError, "SANA of many steps"),
        ({"scheduler": {"_class_name": "DPMSolverMultistepScheduler"}}, UnsupportedError, "must be SCMScheduler"),
    ],
)
def test_what_does_not_fit_or_is_another_model_is_refused(
    changes: dict[str, dict[str, Any]], error: type[SdmobileError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        open_checkpoint(tiny.write(tmp_path / "other", changes))


@pytest.mark.parametrize("key", ["num_attention_heads", "cross_attention_head_dim"])
def test_heads_that_the_weights_have_not_are_refused(key: str, checkpoint: Checkpoint) -> None:
    configs = {name: dict(info.config) for name, info in checkpoint.components.items()}
    configs["transformer"][key] = 1_000_000
    with pytest.raises(CheckpointError, match="must have the width of its weights"):
        SANA.facts(configs, checkpoint.scheduler_config, [])
