"""Stable Diffusion distilled to few steps: pictures as Diffusers makes them, by one row, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sdmobile.checkpoints import open_checkpoint
from sdmobile.cli.app import app
from sdmobile.errors import CheckpointError, UnsupportedError, UsageError
from sdmobile.families import family_named
from sdmobile.families.schedulers import STABLE_DIFFUSION
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import ComponentCall, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.families.diffusers_latents import assert_same, diffusers_latents
from tests.families.tiny.stable_diffusion import FEW_BLOCKS
from tests.synthetic import write_checkpoint

FEW = family_named("stable-diffusion-few-steps")
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "turbo": ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, 1),
    "turbo in four": ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, 4),
    "lcm": ({"_class_name": "LCMScheduler", "original_inference_steps": 50, "clip_sample": False}, 4),
    "tcd": ({"_class_name": "TCDScheduler", "original_inference_steps": 50, "clip_sample": False}, 4),
}


def write(folder: Path, scheduler: dict[str, Any]) -> Path:
    changes = {**scheduler, "prediction_type": "epsilon"}
    return write_checkpoint(folder, changes={"unet": FEW_BLOCKS, "scheduler": changes})


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_those_of_diffusers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    scheduler, steps = KINDS[kind]
    folder = write(tmp_path / "tiny", scheduler)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.family is FEW
    spec = PipelineSpec.from_checkpoint(checkpoint)
    assert spec.guidance.name == "none"
    calls: list[ComponentCall] = []
    request = SampleRequest("a red circle", "", steps, 7, spec.guidance_scale)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request, calls.append).latents
    unet = [call for call in calls if call.component == "unet"]
    assert len(unet) == steps
    assert {call.inputs["sample"].shape[0] for call in unet} == {1}

    noise = NoiseStream(7, spec.latent_shape)
    first = torch.from_numpy(noise.draw())
    for room in ("lcm", "tcd"):  # fresh noise in a step is the documented stream's, not torch's
        module = f"diffusers.schedulers.scheduling_{room}"
        monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: torch.from_numpy(noise.draw()))
    pipeline: Any = diffusers.StableDiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    scheduler_class: Any = getattr(diffusers, scheduler["_class_name"])
    pipeline.scheduler = scheduler_class.from_pretrained(folder, subfolder="scheduler")
    theirs = diffusers_latents(pipeline, request, height=32, width=32, latents=first)
    assert len(theirs) == steps
    assert_same(ours, theirs)


def test_a_guided_card_or_an_ordinary_scheduler_is_not_distilled(tmp_path: Path) -> None:
    folder = write(tmp_path / "guided", KINDS["lcm"][0])
    card = "---\ninference:\n  parameters:\n    guidance_scale: 2\n---\n"
    (folder / "README.md").write_text(card)
    assert open_checkpoint(folder).family.name == "stable-diffusion"
    assert open_checkpoint(write(tmp_path / "plain", STABLE_DIFFUSION)).family.name == "stable-diffusion"


def test_a_scale_above_one_takes_both_rows_in_pytorch_and_is_refused_where_there_is_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "tiny", KINDS["turbo"][0])
    checkpoint = open_checkpoint(folder)
    spec = PipelineSpec.from_checkpoint(checkpoint)
    request = SampleRequest("a red circle", "blue", 1, 7, 3.0)
    with pytest.raises(UsageError, match=r"guidance none.*at most 1.*3.*--guidance batch2"):
        sample(TorchRunner(checkpoint), spec, request)
    guided = spec.guided_at(3.0)
    assert (guided.guidance.name, guided.geometry.batch) == ("batch2", 2)
    assert spec.guided_at(1.0) is spec
    drawn = sample(TorchRunner(checkpoint), guided, request).latents[-1]
    plain = sample(TorchRunner(checkpoint), spec, SampleRequest("a red circle", "blue", 1, 7, 1.0)).latents[-1]
    assert np.abs(drawn - plain).max() > 1e-3
    with pytest.raises(UsageError, match="distilled into the model"):
        PipelineSpec.from_checkpoint(open_checkpoint(Path("shapes-64-mobile"))).check_asked(5.0)
    arguments = ["generate", str(folder), "-p", "a red circle", "--guidance", "3", "-o", str(tmp_path / "a.png")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output


def test_the_plan_says_what_apples_package_cannot_do(tmp_path: Path) -> None:
    folder = write(tmp_path / "tiny", KINDS["lcm"][0])
    result = CliRunner().invoke(app, ["export", str(folder), "--target", "ios", "--dry-run", "--json"])
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["guidance"] == "none"
    assert any("Apple's Swift package has no LCMScheduler" in warning for warning in plan["warnings"])


def test_tcd_is_tables_without_noise(tmp_path: Path) -> None:
    """An app's loop by the tables gives what the pipeline gives, in 1, 2, 4 and 8 steps."""
    checkpoint = open_checkpoint(write(tmp_path / "tiny", KINDS["tcd"][0]))
    document = FEW.scheduler_document(checkpoint.scheduler_config, 0.18215)
    assert document["default_solver"] == "TCDScheduler"
    spec = PipelineSpec.from_checkpoint(checkpoint)
    for steps in (1, 2, 4, 8):
        calls: list[ComponentCall] = []
        request = SampleRequest("a red circle", "", steps, 7, 0.0)
        latents = sample(TorchRunner(checkpoint), spec, request, calls.append).latents
        rows = document["solvers"]["TCDScheduler"]["steps"][str(steps)]
        x, before = NoiseStream(7, spec.latent_shape).draw(), np.zeros(spec.latent_shape)
        predictions = [call.outputs["noise_pred"] for call in calls if call.component == "unet"]
        for row, prediction, wanted in zip(rows, predictions, latents, strict=True):
            clean = (x - row["sigma"] * prediction) / row["alpha"]
            x, before = row["a"] * x + row["b"] * clean + row["c"] * before, clean
            np.testing.assert_allclose(x, wanted, atol=1e-3 * max(1.0, float(np.abs(wanted).max())))


@pytest.mark.parametrize(
    "odd",
    [
        {"rescale_betas_zero_snr": True},
        {"beta_start": 0.0, "beta_end": 0.0},
        {"thresholding": True},
        {"timestep_scaling": "ten"},
        {"timestep_scaling": 1e308},
        {"original_inference_steps": 0},
        {"original_inference_steps": "x"},
    ],
    ids=str,
)
def test_settings_without_numbers_are_refused_before_any_work(odd: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "odd", {**KINDS["lcm"][0], **odd})
    command = ["export", str(folder), "--target", "android", "--dry-run"]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, CheckpointError | UnsupportedError), result.output
