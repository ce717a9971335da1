"""Latent consistency: sampled as Diffusers samples it, recognised in both forms, with tables that an app can run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.checkpoints import load_model, open_checkpoint
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import family_named
from sdmobile.families.latent_consistency import guidance_embedding
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import Sampler, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.checkpoints.ldm_layout import clip_to_ldm, unet_to_ldm, vae_to_ldm
from tests.families.tiny import write_tiny

LCM = family_named("latent-consistency")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(LCM.name, tmp_path_factory.mktemp("lcm") / "tiny")


@pytest.mark.parametrize("width", [16, 17, 256])
@pytest.mark.parametrize("scale", [1.0, 4.0, 8.5])
def test_the_embedding_is_that_of_diffusers(width: int, scale: float) -> None:
    from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
        LatentConsistencyModelPipeline,
    )

    embed: Any = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    expected = embed(None, torch.tensor([scale - 1]), embedding_dim=width).numpy()
    # sin and cos of phases up to 7500 in float32: one unit in the last place of the phase is 5e-4.
    np.testing.assert_allclose(guidance_embedding(scale, width), expected, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_picture_is_that_of_diffusers_with_the_same_noise(
    folder: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import LatentConsistencyModelPipeline
    from diffusers.schedulers import scheduling_lcm

    checkpoint = open_checkpoint(folder)
    spec = PipelineSpec.from_checkpoint(checkpoint)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, SampleRequest("a red circle", "", steps, 7, 6.0))
    noise = NoiseStream(7, spec.latent_shape)
    first = torch.from_numpy(noise.draw())
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, **__: torch.from_numpy(noise.draw()))
    pipeline: Any = LatentConsistencyModelPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a red circle", num_inference_steps=steps, guidance_scale=6.0, latents=first, output_type="np"
    ).images[0]
    np.testing.assert_allclose(np.clip(ours.image[0].transpose(1, 2, 0) / 2 + 0.5, 0, 1), theirs, atol=2e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_the_tables_run_the_loop(folder: Path, steps: int) -> None:
    """An app with the tables, the noise and the files gets the latents of the reference."""
    checkpoint = open_checkpoint(folder)
    spec = PipelineSpec.from_checkpoint(checkpoint)
    runner = TorchRunner(checkpoint, spec.geometry)
    document = LCM.scheduler_document(checkpoint.scheduler_config, checkpoint.scaling_factor)
    assert document["clean_latent"] == "D = (x - sigma * prediction) / alpha"
    context = Sampler(runner, spec).encode("a red circle")
    noise = NoiseStream(3, spec.latent_shape)
    latent = noise.draw()
    for row in document["solvers"]["lcm"]["steps"][str(steps)]:
        inputs = {"sample": latent, "timestep": np.array([row["timestep"]], np.float32), **context}
        inputs |= {"timestep_cond": guidance_embedding(8.5, 16)}
        prediction = runner.run("unet", inputs)["noise_pred"]
        clean = (latent - row["sigma"] * prediction) / row["alpha"]
        latent = row["a"] * latent + row["b"] * clean + (row["n"] * noise.draw() if row["n"] else 0)
        latent = latent.astype(np.float32)
    reference = sample(runner, spec, SampleRequest("a red circle", "", steps, 3, 8.5)).latents[-1]
    np.testing.assert_allclose(latent, reference, atol=2e-3 * np.abs(reference).max())


def test_a_single_file_is_recognised_and_every_tensor_is_used(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    checkpoint = open_checkpoint(folder)
    unet = load_model(checkpoint, "unet").state_dict()
    projection = unet.pop("time_embedding.cond_proj.weight")
    tensors = {
        **unet_to_ldm(unet, 1),
        **vae_to_ldm(load_model(checkpoint, "vae").state_dict(), 2),
        **clip_to_ldm(load_model(checkpoint, "text_encoder").state_dict()),
        "model.diffusion_model.time_embed.cond_proj.weight": projection,
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "lcm.safetensors")
    opened = open_checkpoint(tmp_path / "lcm.safetensors")
    assert opened.family is LCM
    assert dict(opened.sizes) == {"time_cond_proj_dim": 16}
    loaded = load_model(opened, "unet").state_dict()
    assert torch.equal(loaded["time_embedding.cond_proj.weight"], projection)
    assert opened.scheduler_config["_class_name"] == "LCMScheduler"


def test_what_it_is_not_sampled_by_is_refused(folder: Path) -> None:
    config = open_checkpoint(folder).scheduler_config
    with pytest.raises(UnsupportedError, match="its own scheduler"):
        LCM.scheduler(config, "ddim", 4)
    with pytest.raises(UnsupportedError, match="at most 50 steps"):
        LCM.scheduler(config, None, 51)
    with pytest.raises(UnsupportedError, match="guidance of Latent consistency must be one of embedded"):
        LCM.guidance("batch2")


@pytest.mark.parametrize("width", ["wide", 2, 10**9])
def test_a_width_that_is_none_is_refused(folder: Path, width: object) -> None:
    checkpoint = open_checkpoint(folder)
    configs = {name: dict(info.config) for name, info in checkpoint.components.items()}
    configs["unet"]["time_cond_proj_dim"] = width
    with pytest.raises(CheckpointError, match="number of features"):
        LCM.facts(configs, checkpoint.scheduler_config, [])
