"""Stable Diffusion with Diffusers' ControlNet: latents as its own pipeline makes them, the files, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.checkpoints import open_checkpoint
from sdmobile.checkpoints.control import ControlFolder
from sdmobile.errors import CheckpointError, UnsupportedError
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

PICTURE = np.random.default_rng(5).random((1, 3, 32, 32), np.float32)
REQUEST = SampleRequest("a red circle", "blue", 3, 4, 3.0, "ddim", control=(PICTURE,))


def write_controlnet(checkpoint: Path, folder: Path, seed: int = 3, **changes: Any) -> Path:
    """Writes a ControlNet of a checkpoint's UNet, none of whose convolutions is zero, with changes to its settings."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    torch.manual_seed(seed)
    unet: Any = UNet2DConditionModel.from_pretrained(checkpoint / "unet")
    net: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
    net.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("control")
    checkpoint = write_checkpoint(root / "tiny")
    return {"checkpoint": checkpoint, "control": write_controlnet(checkpoint, root / "sd-controlnet-canny")}


def _opened(folders: dict[str, Path]) -> Any:
    return open_checkpoint(folders["checkpoint"], controls=[ControlFolder(folders["control"])])


@pytest.mark.parametrize("guidance", ["batch2", "separate"])
def test_latents_are_those_of_diffusers(folders: dict[str, Path], guidance: str) -> None:
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline

    checkpoint = _opened(folders)
    spec = PipelineSpec.from_checkpoint(checkpoint, guidance)
    ours = sample(TorchRunner(checkpoint), spec, REQUEST).latents
    network = ControlNetModel.from_pretrained(folders["control"])
    pipeline: Any = StableDiffusionControlNetPipeline.from_pretrained(
        str(folders["checkpoint"]), controlnet=network, torch_dtype=torch.float32
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    start = torch.from_numpy(standard_normal(REQUEST.seed, spec.latent_shape).astype(np.float32))
    theirs = diffusers_latents(pipeline, REQUEST, torch.from_numpy(PICTURE), height=32, width=32, latents=start)
    assert len(theirs) == REQUEST.steps
    assert_same(ours, theirs)
    plain = sample(TorchRunner(checkpoint), spec, SampleRequest("a red circle", "blue", 3, 4, 3.0, "ddim")).latents
    assert np.abs(plain[-1] - ours[-1]).max() > 1e-3  # the picture matters


@pytest.mark.parametrize("target", ["ios", pytest.param("android", marks=pytest.mark.slow)])
def test_exported_files_compute_what_pytorch_does(folders: dict[str, Path], target: str, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with exports_in_this_process():
        invoke(
            "export", folders["checkpoint"], "--control", folders["control"], "--target", target, "--output", out,
            "--components", "controlnet,unet", "--no-cache",
        )  # fmt: skip
    checkpoint, bundle = _opened(folders), open_bundle(out)
    expected = {
        "ios": {"ControlNet_sd_controlnet_canny.mlpackage", "ControlledUnet.mlpackage"},
        "android": {"controlnet.tflite", "controlled_unet.tflite"},
    }
    assert expected[target] <= {path.name for path in out.iterdir()}
    spec = PipelineSpec.from_checkpoint(checkpoint)
    calls: list[ComponentCall] = []
    sample(TorchRunner(checkpoint, spec.geometry), spec, REQUEST, calls.append)
    files = bundle_runner(bundle, "auto")
    for name in ("controlnet", "unet"):
        call = [one for one in calls if one.component == name][-1]
        given = files.run(name, call.inputs)
        for key, wanted in call.outputs.items():
            peak = float(np.abs(wanted).max())
            assert peak > 0
            np.testing.assert_allclose(given[key], wanted, atol=peak * (1e-2 if target == "ios" else 2e-3))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"global_pool_conditions": True}, UnsupportedError, "global_pool_conditions"),
        ({"controlnet_conditioning_channel_order": "xyz"}, UnsupportedError, "channel_order = 'xyz'"),
        ({"conditioning_channels": 4}, UnsupportedError, "conditioning_channels = 4"),
        ({"addition_embed_type": "text_time"}, UnsupportedError, "addition_embed_type"),
        ({"conditioning_embedding_out_channels": [8, 16, 32]}, CheckpointError, "one latent cell.*4"),
    ],
)
def test_what_is_refused(
    folders: dict[str, Path], tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    network = write_controlnet(folders["checkpoint"], tmp_path / "other", **changes)
    with pytest.raises(error, match=words):
        open_checkpoint(folders["checkpoint"], controls=[ControlFolder(network)])


@pytest.mark.parametrize("changes", [{"layers_per_block": 10**9}, {"block_out_channels": None}])
def test_tensors_say_what_the_settings_have_wrong(
    folders: dict[str, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    network = write_controlnet(folders["checkpoint"], tmp_path / "other", **changes)
    opened: Any = open_checkpoint(folders["checkpoint"], controls=[ControlFolder(network)])
    assert opened.family.controls[0].maps == _opened(folders).family.controls[0].maps


def test_a_network_of_another_unet_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from diffusers import ControlNetModel

    config = json.loads((folders["control"] / "config.json").read_text())
    net: Any = ControlNetModel.from_config({**config, "cross_attention_dim": 16})
    net.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"cross_attention_dim is 16; the UNet's is 32"):
        open_checkpoint(folders["checkpoint"], controls=[ControlFolder(tmp_path / "other")])
