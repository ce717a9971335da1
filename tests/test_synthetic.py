"""The random checkpoints have the promised shapes, and the same seed gives the same bytes."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from sdmobile.checkpoints import load_model, open_checkpoint
from tests.families import SD
from tests.synthetic import _SD15, SD15_PARAMETERS, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def test_seed_decides_the_bytes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    original = open_checkpoint(tiny_checkpoint).content_hash
    assert open_checkpoint(write_checkpoint(tmp_path / "same", seed=0)).content_hash == original
    assert open_checkpoint(write_checkpoint(tmp_path / "other", seed=1)).content_hash != original


def test_activations_are_sane(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    with torch.no_grad():
        context = load_model(checkpoint, "text_encoder")(torch.arange(77)[None]).last_hidden_state
        noise = load_model(checkpoint, "unet")(torch.randn(1, 4, 16, 16), torch.tensor([500.0]), context).sample
    assert 0.5 < float(context.std()) < 2
    assert 0.05 < float(noise.std()) < 5


def test_norms_are_not_identities(tiny_checkpoint: Path) -> None:
    unet = load_model(open_checkpoint(tiny_checkpoint), "unet")
    norm = unet.get_submodule("conv_norm_out")
    assert float(norm.get_parameter("weight").std()) > 0.05
    assert float(norm.get_parameter("bias").std()) > 0.02


def test_sd15_shapes_count_as_stable_diffusion() -> None:
    from sdmobile.checkpoints.modules import empty_module

    for component, expected in SD15_PARAMETERS.items():
        module = empty_module(SD.model(component), _SD15[component])
        assert sum(parameter.numel() for parameter in module.parameters()) == expected
        if component == "vae":
            decoder = [
                *module.get_submodule("decoder").parameters(),
                *module.get_submodule("post_quant_conv").parameters(),
            ]
            assert sum(parameter.numel() for parameter in decoder) == 49_490_199


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, sdmobile.checkpoints, sdmobile.checkpoints.single_file, tests.synthetic; "
        "print([name for name in ('torch', 'diffusers', 'transformers', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_sd15_can_be_written_and_loaded(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "sd15", "sd15"))
    assert {name: info.parameters for name, info in checkpoint.components.items()} == SD15_PARAMETERS
    assert (checkpoint.latent_size, checkpoint.image_size, checkpoint.context_dim) == ((64, 64), (512, 512), 768)
    load_model(checkpoint, "text_encoder")
