"""FLUX.2's autoencoder as files have it: packed latents, in moves of four axes at most.

A cell of 4·C channels is C channels of two by two cells, whose number (row, column) changes fastest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from sdmobile.families.flux2_autoencoder import PACKED


class Statistics(nn.Module):
    """() -> μ and √(v + ε) of packed latents (4·C,), where a checkpoint has a BatchNorm that nothing calls.

    Args:
        channels: 4·C.
        epsilon: ε.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.epsilon = epsilon

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.running_mean, (self.running_var + self.epsilon).sqrt()


class _Packed(nn.Module):
    """Holds the statistics of packed latents.

    Args:
        component: an AutoencoderKLFlux2 with `Statistics`.
        channels_last: whether pixels and latents lie so in the file.
    """

    def __init__(self, component: Any, channels_last: bool) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.bn = component.bn

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Returns μ and √(v + ε), shaped to go with latents of the file's layout."""
        mean, deviation = self.bn()
        return (mean, deviation) if self.channels_last else (mean.view(-1, 1, 1), deviation.view(-1, 1, 1))


class PackedDecoder(_Packed):
    """Latents (1, 4·C, h, w) -> image in [-1, 1]."""

    def __init__(self, component: Any, channels_last: bool) -> None:
        super().__init__(component, channels_last)
        self.post_quant_conv = component.post_quant_conv or nn.Identity()
        self.decoder = component.decoder

    def forward(self, latent: Tensor) -> Tensor:
        mean, deviation = self.statistics()
        x = latent * deviation + mean
        x = unpacked(x).permute(0, 3, 1, 2) if self.channels_last else pixel_shuffle(x, PACKED)
        image = self.decoder(self.post_quant_conv(x))
        return image.permute(0, 2, 3, 1) if self.channels_last else image


class PackedEncoder(_Packed):
    """Image in [-1, 1] -> the mean of its latents (1, 4·C, h, w)."""

    def __init__(self, component: Any, channels_last: bool) -> None:
        super().__init__(component, channels_last)
        self.quant_conv = component.quant_conv or nn.Identity()
        self.encoder = component.encoder

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2) if self.channels_last else image
        means = self.quant_conv(self.encoder(x)).chunk(2, dim=1)[0]
        x = packed(means.permute(0, 2, 3, 1)) if self.channels_last else pixel_unshuffle(means, PACKED)
        mean, deviation = self.statistics()
        return (x - mean) / deviation


def unpacked(x: Tensor) -> Tensor:
    """Returns one latent of (1, h, w, 4·C) as (1, 2·h, 2·w, C)."""
    _, rows, columns, channels = x.shape
    inner = channels // PACKED**2
    cells = x.reshape(rows, columns, inner, PACKED**2).permute(0, 3, 1, 2)
    lines = cells.reshape(rows * PACKED, PACKED, columns, inner).permute(0, 2, 1, 3)
    return lines.reshape(1, rows * PACKED, columns * PACKED, inner)


def packed(x: Tensor) -> Tensor:
    """Returns one latent of (1, 2·h, 2·w, C) as (1, h, w, 4·C)."""
    _, height, width, inner = x.shape
    rows, columns = height // PACKED, width // PACKED
    lines = x.reshape(height, columns, PACKED, inner).permute(0, 2, 1, 3)
    cells = lines.reshape(rows, PACKED**2, columns, inner).permute(0, 2, 3, 1)
    return cells.reshape(1, rows, columns, inner * PACKED**2)
