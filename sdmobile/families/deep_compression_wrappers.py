"""DC-AE's halves as files have them: four axes at most.

A shortcut of Diffusers' encoder moves the pixels of 2×2 to channels and takes the mean of G neighbouring ones, by an
axis of their own. That is a convolution, each of whose outputs is of one channel where G is 1, 2 or 4:

    y_o = (1/G)·Σ x_c(2·row + i, 2·column + j)      over c, i and j with ⌊(4c + 2i + j)/G⌋ = o
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pixel_unshuffle

from sdmobile.families.tiny_autoencoder import moments
from sdmobile.families.wrappers import Wrapper

_FACTOR = 2


class DeepDecoder(Wrapper):
    """Latents divided by the scaling factor -> image in about [-1, 1]."""

    def __init__(self, component: Any, channels_last: bool) -> None:
        nn.Module.__init__(self)
        self.channels_last = channels_last
        self.decoder = component.decoder

    def forward(self, latent: Tensor) -> Tensor:
        return self.leave(self.decoder(self.enter(latent)))


class DeepEncoder(Wrapper):
    """Image in [-1, 1] -> latents as a distribution without spread; see `moments`."""

    def __init__(self, component: Any, channels_last: bool) -> None:
        nn.Module.__init__(self)
        self.channels_last = channels_last
        self.encoder = _Encoder(component.encoder)

    def forward(self, image: Tensor) -> Tensor:
        return self.leave(moments(self.encoder(self.enter(image))))


class _Encoder(nn.Module):
    """Diffusers' encoder, its modules by their names, with convolutions for shortcuts."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.conv_in, self.conv_out = encoder.conv_in, encoder.conv_out
        self.down_blocks = nn.ModuleList(
            nn.Sequential(*(_Down(one) if getattr(one, "shortcut", False) else one for one in stage))
            for stage in encoder.down_blocks
        )
        self.out_shortcut = encoder.out_shortcut
        if self.out_shortcut:
            kernels = group_means(encoder.conv_out.in_channels, encoder.out_shortcut_average_group_size, 1)
            self.register_buffer("means", kernels, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_in(image)
        for stage in self.down_blocks:
            x = stage(x)
        return self.conv_out(x) + conv2d(x, self.get_buffer("means")) if self.out_shortcut else self.conv_out(x)


class _Down(nn.Module):
    """A DCDownBlock2d with a shortcut."""

    means: Tensor

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv, self.downsample = block.conv, block.downsample
        self.register_buffer("means", group_means(block.conv.in_channels, block.group_size, _FACTOR), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        groups = x.shape[1] // self.means.shape[1]
        short = conv2d(x, self.means, stride=_FACTOR, groups=groups)
        return (pixel_unshuffle(y, _FACTOR) if self.downsample else y) + short


def group_means(channels: int, size: int, factor: int) -> Tensor:
    """Returns kernels of the convolution that takes means of channels after their pixels became channels.

    Args:
        channels: C of the picture.
        size: G, channels of one mean.
        factor: pixels along a side that become channels.

    Returns:
        [C·factor²/G, 1, factor, factor], of one channel each where G divides factor², else of C channels.
    """
    places = channels * factor * factor
    dense = torch.zeros(places // size, places)
    dense[torch.arange(places) // size, torch.arange(places)] = 1 / size
    kernels = dense.reshape(-1, channels, factor, factor)
    return kernels.sum(1, keepdim=True) if factor * factor % size == 0 else kernels
