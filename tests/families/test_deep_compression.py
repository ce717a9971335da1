"""DC-AE as components: the numbers of Diffusers' autoencoder, with four axes at most, and files that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdmobile.basics.metrics import psnr
from sdmobile.device_profiles import load_profile
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import deep_compression
from sdmobile.families.component import Component
from sdmobile.lint import lint_file
from sdmobile.rewrites.registry import rules_for
from tests.families.tiny.sana_sprint import VAE
from tests.rewrites.litert_files import litert_file

LATENT = (1, 8, 4, 4)


def autoencoder(**changes: Any) -> Any:
    """Returns one whose norms and biases are not as they were initialised."""
    torch.manual_seed(0)
    module = deep_compression.MODEL.build({**VAE, **changes})
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return module.eval().requires_grad_(False)


def wrapped(component: Component, module: Any, channels_last: bool = False) -> nn.Module:
    return component.wrap(module, channels_last).eval()


@pytest.mark.parametrize("downsample", ["Conv", "pixel_unshuffle"])
@pytest.mark.parametrize("widths", [[16, 32, 64], [16, 32, 32], [16, 64, 32]])
@pytest.mark.parametrize("shortcut", [True, False])
def test_latents_are_those_of_diffusers(downsample: str, widths: list[int], shortcut: bool) -> None:
    changes = {"encoder_block_out_channels": widths, "encoder_out_shortcut": shortcut}
    module = autoencoder(downsample_block_type=downsample, **changes)
    image = torch.randn(1, 3, 32, 48)
    theirs = module.encode(image, return_dict=False)[0]
    ours = wrapped(deep_compression.ENCODER, module)(image)
    torch.testing.assert_close(ours[:, :8], theirs, atol=1e-5, rtol=0)
    assert (ours[:, 8:] == -30).all()  # no spread
    last = wrapped(deep_compression.ENCODER, module, channels_last=True)(image.permute(0, 2, 3, 1))
    torch.testing.assert_close(last.permute(0, 3, 1, 2), ours)


@pytest.mark.parametrize("upsample", ["interpolate", "pixel_shuffle"])
def test_pictures_are_those_of_diffusers(upsample: str) -> None:
    module = autoencoder(upsample_block_type=upsample)
    latent = torch.randn(LATENT)
    theirs = module.decode(latent, return_dict=False)[0]
    torch.testing.assert_close(wrapped(deep_compression.DECODER, module)(latent), theirs)
    assert theirs.shape == (1, 3, 16, 16)


def test_weights_keep_their_names() -> None:
    module = autoencoder()
    halves = [wrapped(part, module) for part in (deep_compression.ENCODER, deep_compression.DECODER)]
    names = [name for half in halves for name, _ in half.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in module.named_parameters())
    assert not any("means" in name for half in halves for name in half.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("half", ["encoder", "decoder"])
@pytest.mark.parametrize("form", ["published", "pixel_shuffle"])
def test_a_phones_file_is_pytorch_and_its_gpu_takes_it(half: str, form: str, tmp_path: Path) -> None:
    shuffled = {"upsample_block_type": "pixel_shuffle", "downsample_block_type": "pixel_unshuffle"}
    module = autoencoder(**(shuffled if form == "pixel_shuffle" else {}))
    part = deep_compression.ENCODER if half == "encoder" else deep_compression.DECODER
    given = torch.randn(1, 32, 32, 3) if half == "encoder" else torch.randn(1, 8, 8, 8)
    file = litert_file(wrapped(part, module, True), (given,), rules_for(load_profile("galaxy-s23-ultra")), tmp_path)
    assert psnr(file.expected, file.run()) > 120
    assert lint_file(file.path).accepted


def test_sizes_are_read_off_the_weights() -> None:
    shapes = {name: tuple(value.shape) for name, value in autoencoder().state_dict().items()}
    derived = deep_compression.MODEL.derive(shapes)
    sizes = ("block_types", "block_out_channels", "layers_per_block", "qkv_multiscales")
    names = {"latent_channels", *(f"{half}_{name}" for half in ("encoder", "decoder") for name in sizes)}
    assert derived == {name: VAE[name] for name in names}
    empty = {**VAE, "encoder_layers_per_block": [0, 1, 1], "decoder_layers_per_block": [0, 2, 1]}
    shapes = {name: tuple(value.shape) for name, value in autoencoder(**empty).state_dict().items()}
    assert deep_compression.MODEL.derive(shapes) == {"latent_channels": 8}
    assert deep_compression.scale_factor(VAE) == 4
    assert deep_compression.scaling_factor(VAE) == 0.41407
    assert deep_compression.scaling_factor({}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"decoder_norm_types": ["rms_norm", "batch_norm", "rms_norm"]},
        {"decoder_norm_types": "batch_norm"},
        {"encoder_block_types": "ConvNeXt"},
        {"decoder_block_types": ["ResBlock", 3, "ResBlock"]},
    ],
)
def test_other_blocks_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=f"{next(iter(change))} of AutoencoderDC must be"):
        deep_compression.MODEL.check("AutoencoderDC", {**VAE, **change})


@pytest.mark.parametrize("factor", [0, -1.0, float("nan"), "0.4", None])
def test_a_factor_that_is_none_is_refused(factor: object) -> None:
    with pytest.raises(CheckpointError, match="scaling_factor"):
        deep_compression.scaling_factor({"scaling_factor": factor})


@pytest.mark.parametrize("widths", [None, [], 128, [8] * 40])
def test_levels_that_are_none_are_refused(widths: object) -> None:
    with pytest.raises(CheckpointError, match="encoder_block_out_channels"):
        deep_compression.scale_factor({"encoder_block_out_channels": widths})
