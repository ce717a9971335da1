"""Whole models converted by plain coremltools, evaluated from the saved bytes, against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from sdmobile.checkpoints import load_model, open_checkpoint
from sdmobile.runtimes.mlprogram import MLProgram
from tests.runtimes.mlprogram.support import as_arrays, convert_module, psnr
from tests.runtimes.mlprogram.witnesses import EMITTED

COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
TARGETS = ("iOS16", "iOS17", "iOS18")
FAST = {
    ("text_encoder", "iOS16", True),
    ("text_encoder", "iOS18", False),
    ("unet", "iOS17", True),
}
ALL = [(component, target, float16) for component in COMPONENTS for target in TARGETS for float16 in (False, True)]
FLOAT32_DB = 100.0
FLOAT16_DB = 60.0


class _Text(nn.Module):
    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.module(input_ids.to(torch.int64))[0]


class _UNet(_Text):
    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return self.module(sample, timestep, text, return_dict=False)[0]


class _Decoder(_Text):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.module.decoder(self.module.post_quant_conv(z))


class _Encoder(_Text):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module.quant_conv(self.module.encoder(x))


def _job(folder: Path, component: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    checkpoint = open_checkpoint(folder)
    generator = torch.Generator().manual_seed(0)
    size, channels = checkpoint.latent_size[0], checkpoint.latent_channels
    name: Literal["text_encoder", "unet", "vae"] = "vae"
    if component == "text_encoder":
        name = "text_encoder"
        ids = torch.randint(0, 50, (1, checkpoint.context_length), generator=generator).int()
        wrapper, inputs = _Text, {"input_ids": ids}
    elif component == "unet":
        name = "unet"
        text = torch.randn(2, checkpoint.context_length, checkpoint.context_dim, generator=generator)
        latents = torch.randn(2, channels, size, size, generator=generator)
        wrapper, inputs = _UNet, {"sample": latents, "timestep": torch.tensor([37.0, 37.0]), "text": text}
    elif component == "vae_decoder":
        wrapper, inputs = _Decoder, {"z": torch.randn(1, channels, size, size, generator=generator)}
    else:
        pixels = size * checkpoint.vae_scale_factor
        wrapper, inputs = _Encoder, {"x": torch.rand(1, 3, pixels, pixels, generator=generator) * 2 - 1}
    return wrapper(load_model(checkpoint, name)), inputs


def _check(checkpoint: Path, component: str, target: str, float16: bool, path: Path) -> None:
    module, inputs = _job(checkpoint, component)
    with torch.no_grad():
        expected = module(*inputs.values()).numpy()
    convert_module(module, inputs, path, target, float16)
    for precision in ("float32", "float16", "float16-float32acc"):
        program = MLProgram(path, precision=precision)
        assert {operation.type for operation in program.operations()} <= EMITTED[target]
        assert {name: dtype for name, (_, dtype) in program.inputs.items()}.keys() == inputs.keys()
        output = program.predict(as_arrays(inputs))["output"]
        assert output.dtype == np.float32
        decibels = psnr(expected, output)
        assert decibels >= (FLOAT16_DB if float16 else FLOAT32_DB), (precision, decibels)


@pytest.mark.parametrize(("component", "target", "float16"), [case for case in ALL if case in FAST])
def test_a_package_computes_what_torch_does(
    component: str, target: str, float16: bool, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    _check(tiny_checkpoint, component, target, float16, tmp_path / "model.mlpackage")


@pytest.mark.slow
@pytest.mark.parametrize(("component", "target", "float16"), [case for case in ALL if case not in FAST])
def test_every_package_computes_what_torch_does(
    component: str, target: str, float16: bool, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    _check(tiny_checkpoint, component, target, float16, tmp_path / "model.mlpackage")
