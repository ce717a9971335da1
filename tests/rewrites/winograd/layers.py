"""The convolutions of Stable Diffusion 1.x's networks, from modules without weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from sdmobile.device_profiles.runtime_rules.conv_layer import ConvLayer

_AUTOENCODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}


@cache
def sd15_unet(pixels: int, batch: int) -> tuple[tuple[ConvLayer, ...], int]:
    """Returns the UNet's convolutions in order of execution, and its number of weights."""
    with torch.device("meta"):
        module = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        size = pixels // 8
        inputs = torch.empty(batch, 4, size, size), torch.empty(batch), torch.empty(batch, 77, 768)
        return _convolutions(module, module, inputs), sum(p.numel() for p in module.parameters())


@cache
def sd_decoder(pixels: int) -> tuple[tuple[ConvLayer, ...], int]:
    """Returns the same of the autoencoder's decoder."""
    with torch.device("meta"):
        module = AutoencoderKL(**_AUTOENCODER)
        latent = torch.empty(1, 4, pixels // 8, pixels // 8)
        parts = (module.decoder, module.post_quant_conv)
        weights = sum(p.numel() for part in parts if part is not None for p in part.parameters())
        return _convolutions(module, module.decode, (latent,)), weights


def _convolutions(module: torch.nn.Module, call: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[ConvLayer, ...]:
    found: list[ConvLayer] = []

    def note(conv: torch.nn.Conv2d, _: Any, y: torch.Tensor) -> None:
        assert not isinstance(conv.padding, str)
        pairs = (tuple(int(v) for v in p) for p in (conv.kernel_size, conv.stride, conv.dilation, conv.padding))
        kernel, stride, dilation, padding = pairs
        sizes, channels = (y.shape[2], y.shape[3]), (conv.in_channels, conv.out_channels)
        found.append(ConvLayer(y.shape[0], channels, sizes, kernel, stride, dilation, padding, conv.groups))  # type: ignore

    for conv in module.modules():
        if isinstance(conv, torch.nn.Conv2d):
            conv.register_forward_hook(note)  # type: ignore[arg-type]
    with torch.no_grad():
        call(*inputs)
    return tuple(found)


def of_interest(layers: tuple[ConvLayer, ...]) -> list[ConvLayer]:
    """Returns the 3×3 convolutions of stride 1."""
    return [layer for layer in layers if layer.kernel == (3, 3) and layer.stride == (1, 1)]
