"""PixArt-Σ: pictures as Diffusers makes them, the loop as tables, T5 as Transformers has it, and what is refused."""

from __future__ import annotations

import json
import shutil
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
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import family_named
from sdmobile.families.pixart import MASK, position_table
from sdmobile.families.pixart_transformer import PixArtTransformer
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import Sampler, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.families.diffusers_latents import assert_same
from tests.families.tiny import pixart_sigma as tiny
from tests.in_process import exports_in_this_process

PIXART = family_named("pixart-sigma")
PROMPT = "  A small RED circle on white "
FACTOR = 0.13025


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("pixart") / "tiny")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return open_checkpoint(folder)


def latents_of(pipeline: Any, request: SampleRequest, **more: Any) -> list[np.ndarray]:
    """Returns what Diffusers' pipeline, which has the older way of calling back, has after each step."""
    pipeline.set_progress_bar_config(disable=True)
    seen: list[np.ndarray] = []
    pipeline(
        request.prompt,
        negative_prompt=request.negative,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        callback=lambda step, time, latents: seen.append(latents.numpy()),
        output_type="latent",
        clean_caption=False,
        use_resolution_binning=False,
        **more,
    )
    return seen


@pytest.mark.parametrize(
    ("negative", "size", "scale", "guidance"),
    [("", (32, 32), 4.5, "batch2"), ("A Green star", (48, 32), 4.5, "separate"), ("", (32, 32), 1.0, "separate")],
    ids=["usual", "not square, with a negative text", "unguided"],
)
def test_latents_and_picture_are_those_of_diffusers(
    negative: str, size: tuple[int, int], scale: float, guidance: str, folder: Path, checkpoint: Checkpoint
) -> None:
    from diffusers import PixArtSigmaPipeline

    assert checkpoint.family is PIXART
    request = SampleRequest(PROMPT, negative, 3, 7, scale)
    spec = PipelineSpec.from_checkpoint(checkpoint, guidance, size)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request)

    pipeline: Any = PixArtSigmaPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    first = torch.from_numpy(NoiseStream(7, spec.latent_shape).draw())
    theirs = latents_of(pipeline, request, height=size[0], width=size[1], latents=first)
    assert_same(ours.latents, theirs)
    with torch.no_grad():
        picture = pipeline.vae.decode(torch.from_numpy(theirs[-1]) / FACTOR, return_dict=False)[0].numpy()
    np.testing.assert_allclose(ours.image, picture, atol=1e-4)


def by_tables(
    checkpoint: Checkpoint, document: Mapping[str, Any], request: SampleRequest, spec: PipelineSpec
) -> list[np.ndarray]:
    """Samples as an app does: by the rows of a table, and with the mask made of the identifiers."""
    sampler = Sampler(TorchRunner(checkpoint, spec.geometry), spec)
    solver = document["solvers"][document["default_solver"]]
    x = NoiseStream(request.seed, spec.latent_shape).draw() * np.float32(solver["init_noise_sigma"])
    rows: list[dict[str, np.ndarray]] = []
    for text in (request.negative, request.prompt):
        ids = sampler.tokenize(text)
        features = sampler.runner.run("text_encoder", {"input_ids": ids})["last_hidden_state"]
        rows.append({"encoder_hidden_states": features, MASK: np.where(ids == 0, np.float32(0), np.float32(1))})
    latents: list[np.ndarray] = []
    previous = np.zeros_like(x)
    for row in solver["steps"][str(request.steps)]:
        times = np.asarray([row["timestep"]], dtype=np.float32)
        without, with_text = (
            sampler.runner.run("transformer", {"sample": x, "timestep": times, **text})["noise_pred"] for text in rows
        )
        prediction = without + np.float32(request.guidance_scale) * (with_text - without)
        clean = (x - row["sigma"] * prediction) / row["alpha"]
        x = (row["a"] * x + row["b"] * clean + row["c"] * previous).astype(np.float32)
        previous = clean
        latents.append(x)
    return latents


def test_an_app_samples_by_the_tables(checkpoint: Checkpoint) -> None:
    document = PIXART.scheduler_document(checkpoint.scheduler_config, checkpoint.scaling_factor)
    assert document["prediction_type"] == "epsilon"
    assert document["solvers"][document["default_solver"]]["diffusers_class"] == tiny.SCHEDULER["_class_name"]
    request = SampleRequest(PROMPT, "a green star", 4, 7, 4.5)
    spec = PipelineSpec.from_checkpoint(checkpoint, "separate")
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request)
    assert_same(by_tables(checkpoint, document, request, spec), ours.latents)


@pytest.mark.parametrize("places", [(8, 8), (12, 8), (3, 10)])
def test_positions_are_those_of_diffusers(places: tuple[int, int]) -> None:
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    theirs: Any = get_2d_sincos_pos_embed(32, places, base_size=8, interpolation_scale=2, output_type="pt")
    ours = position_table(32, *places, base=8, scale=2)
    np.testing.assert_allclose(ours[0], theirs.float().numpy(), atol=1e-6)


@pytest.mark.parametrize("outputs", [8, 4], ids=["with a variance", "without"])
@pytest.mark.parametrize("size", [(16, 16), (24, 12)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_exported_forward_is_that_of_diffusers(
    outputs: int, size: tuple[int, int], channels_last: bool, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(tiny.write(tmp_path / "tiny", {**tiny.TRANSFORMER, "out_channels": outputs}))
    module: Any = load_model(checkpoint, "transformer")
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 4, *size, generator=generator)
    text = torch.randn(2, 300, 32, generator=generator)
    mask = (torch.arange(300) < torch.tensor([[5], [40]])).float()
    inputs = {"sample": sample, "timestep": torch.full((2,), 731.0), "encoder_hidden_states": text, MASK: mask}
    with torch.no_grad():
        theirs = PIXART.denoiser.reference(module, inputs)
        given = sample.permute(0, 2, 3, 1) if channels_last else sample
        wrapped = PixArtTransformer(module, channels_last)
        ours = wrapped(given, inputs["timestep"], text, mask)
        every = wrapped(given, inputs["timestep"], text, torch.ones_like(mask))
    assert ours.shape == given.shape
    torch.testing.assert_close(ours.permute(0, 3, 1, 2) if channels_last else ours, theirs, atol=1e-5, rtol=0)
    assert (ours - every).abs().max() > 1e-3  # the mask matters


def test_the_published_configuration_is_read(folder: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """It names an older class, with settings that this one has not; T5's matrix may be there by its second name."""
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folder, tmp_path / "published"))
    stated = json.loads((copy / "transformer" / "config.json").read_text("utf-8"))
    older = {"_class_name": "Transformer2DModel", "norm_num_groups": 32, "num_vector_embeds": None}
    (copy / "transformer" / "config.json").write_text(json.dumps({**stated, **older, "interpolation_scale": 1}))
    index = json.loads((copy / "model_index.json").read_text("utf-8"))
    index["transformer"] = ["diffusers", "Transformer2DModel"]
    (copy / "model_index.json").write_text(json.dumps(index))
    weights = load_file(copy / "text_encoder" / "model.safetensors")
    save_file(
        {**weights, "encoder.embed_tokens.weight": weights["shared.weight"].clone()},
        copy / "text_encoder" / "model.safetensors",
    )
    scheduler = json.loads((copy / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    text = json.dumps({**scheduler, "lambda_min_clipped": float("-inf")})
    (copy / "scheduler" / "scheduler_config.json").write_text(text)
    other = open_checkpoint(copy)
    assert other.family is PIXART
    assert not other.misfits
    assert PIXART.scheduler_document(other.scheduler_config, FACTOR) == PIXART.scheduler_document(
        checkpoint.scheduler_config, FACTOR
    )


def test_steps_and_guidance_are_those_of_the_pipeline(checkpoint: Checkpoint) -> None:
    assert (checkpoint.usual_steps, checkpoint.usual_guidance_scale) == (20, 4.5)
    assert (checkpoint.context_length, checkpoint.scaling_factor) == (300, FACTOR)


def test_a_plan_says_that_no_package_runs_it(folder: Path) -> None:
    arguments = ["export", str(folder), "--target", "ios", "--dry-run", "--json"]
    plan = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert any("no Swift package of Apple's runs PixArt-Σ" in line for line in plan["warnings"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"transformer": {"caption_channels": 40}}, "must take the text encoder's features"),
        ({"transformer": {"sample_size": 15}}, "multiple of 2 latent cells"),
        ({"transformer": {"sample_size": 2048}}, "up to 512"),
        ({"vae": {"latent_channels": 8}}, "must have the same latent channels"),
    ],
)
def test_models_that_do_not_fit_are_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(
            tiny.write(
                tmp_path / "misfit",
                {**tiny.TRANSFORMER, **changes.get("transformer", {})},
                {"vae": {**tiny.VAE, **changes.get("vae", {})}},
            )
        )


def test_heads_that_the_weights_have_not_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "other"))
    stated = json.loads((copy / "transformer" / "config.json").read_text("utf-8"))
    for heads in (1_000_000, "4"):
        (copy / "transformer" / "config.json").write_text(json.dumps({**stated, "num_attention_heads": heads}))
        with pytest.raises(CheckpointError, match=f"{heads} heads of 8 features, weights of 32"):
            open_checkpoint(copy)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"index": {"_class_name": "PixArtAlphaPipeline"}}, "PixArt-α"),
        ({"scheduler": {"timestep_spacing": "leading"}}, "steps_offset = 1"),
    ],
)
def test_other_pipelines_are_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=says):
        open_checkpoint(tiny.write(tmp_path / "other", changes=changes))


def test_sizes_of_the_picture_as_inputs_are_refused(tmp_path: Path) -> None:
    alpha = {**tiny.TRANSFORMER, "use_additional_conditions": True, "attention_head_dim": 12, "cross_attention_dim": 48}
    with pytest.raises(UnsupportedError, match="sizes of the picture as inputs"):
        open_checkpoint(tiny.write(tmp_path / "alpha", alpha))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ios", "android"])
def test_files_of_another_size_are_pytorch(folder: Path, target: str, tmp_path: Path) -> None:
    """The positions of other sizes than the checkpoint's own are computed for the file."""
    out = tmp_path / "bundle"
    options = ["--components", "text_encoder,transformer", "--resolution", "48x32", "--guidance", "separate"]
    with exports_in_this_process():
        result = CliRunner().invoke(
            app, ["export", str(folder), "--target", target, "--output", str(out), "--no-cache", *options]
        )
    assert result.exit_code == 0, result.output
    sizes = ["--steps", "2", "--max-samples", "2", "--no-cache", "--json"]
    result = CliRunner().invoke(app, ["validate", str(out), "--reference", str(folder), *sizes])
    report = json.loads(result.stdout)
    assert report["passed"], report
