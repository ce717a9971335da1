"""Stable Diffusion with a smaller UNet (BK-SDM and its kind): fewer blocks, no middle, numbers per level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.checkpoints import open_checkpoint
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.reference.noise import standard_normal
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import ComponentCall, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from sdmobile.runtimes import bundle_runner
from tests.families.diffusers_latents import assert_same, diffusers_latents
from tests.families.test_control import invoke
from tests.in_process import exports_in_this_process
from tests.synthetic import write_checkpoint

UNETS: dict[str, dict[str, Any]] = {
    "no middle, one block per level": {"mid_block_type": None, "layers_per_block": 1},
    "no middle, numbers per level": {
        "mid_block_type": None,
        "layers_per_block": [1, 2],
        "transformer_layers_per_block": [1, 2],
    },
}
REQUEST = SampleRequest("a red circle", "blue", 2, 4, 3.0, "ddim")


@pytest.fixture(params=UNETS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "tiny", changes={"unet": UNETS[request.param]})


def test_latents_are_those_of_diffusers(folder: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    checkpoint = open_checkpoint(folder)
    assert not checkpoint.misfits
    spec = PipelineSpec.from_checkpoint(checkpoint)
    ours = sample(TorchRunner(checkpoint), spec, REQUEST).latents
    pipeline: Any = StableDiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    assert pipeline.unet.mid_block is None
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    start = torch.from_numpy(standard_normal(REQUEST.seed, spec.latent_shape).astype(np.float32))
    assert_same(ours, diffusers_latents(pipeline, REQUEST, height=32, width=32, latents=start))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ios", "android"])
def test_exported_files_compute_what_pytorch_does(folder: Path, target: str, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with exports_in_this_process():
        invoke("export", folder, "--target", target, "--output", out, "--components", "unet", "--no-cache")
    checkpoint = open_checkpoint(folder)
    spec = PipelineSpec.from_checkpoint(checkpoint)
    calls: list[ComponentCall] = []
    sample(TorchRunner(checkpoint, spec.geometry), spec, REQUEST, calls.append)
    call = [one for one in calls if one.component == "unet"][-1]
    given, wanted = bundle_runner(open_bundle(out), "auto").run("unet", call.inputs), call.outputs
    peak = float(np.abs(wanted["noise_pred"]).max())
    np.testing.assert_allclose(
        given["noise_pred"], wanted["noise_pred"], atol=peak * (1e-2 if target == "ios" else 2e-3)
    )
