"""PixArt-Σ: pictures as Diffusers makes them, the loop as tables, T5 as Transformers has it, and what is refused."""

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
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import family_named
from sdmobile.families.pixart import MASK, position_table
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import Sampler, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.families.diffusers_latents import assert_same
from tests.families.tiny import pixart_sigma as tiny

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
