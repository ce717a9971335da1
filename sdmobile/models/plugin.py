"""A light plugin: features of a picture for every level of the mobile UNet, computed once per picture.

In the manner of MediaPipe's diffusion plugins, which are MobileNetV2 networks of 6 M parameters whose features are
added on the UNet's way down at every step, whatever the timestep; the layers here are our own. Inverted residual
blocks: Sandler et al., "MobileNetV2", arXiv 1801.04381, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.controlnets.controlnet import zero_module
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class InvertedResidual(nn.Module):
    """y = G(P(relu6(D(relu6(E(x)))))), plus x where shapes allow: expand, depthwise 3×3, project, group norm.

    Args:
        channels: C of [N, C, H, W].
        out_channels: C'.
        stride: of the depthwise convolution.
        expansion: inner width in multiples of C.
        groups: of the group norm.
    """

    def __init__(self, channels: int, out_channels: int, stride: int, expansion: int, groups: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = nn.Conv2d(channels, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner)
        self.project = nn.Conv2d(inner, out_channels, 1)
        self.norm = nn.GroupNorm(groups, out_channels)
        self.activation = nn.ReLU6()
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N, C', H / stride, W / stride] of [N, C, H, W]."""
        inner = self.activation(self.depthwise(self.activation(self.expand(x))))
        y = self.norm(self.project(inner))
        return x + y if self.residual else y


class MobileControlPlugin(ModelMixin, ConfigMixin):
    """One feature map per level of a UNet, from a picture alone; zero before training.

    Args:
        conditioning_channels: of the picture that controls.
        conditioning_stride: its pixels per latent cell, along one axis; a power of two, at least 2.
        block_out_channels: C per level of the UNet, highest resolution first; each level halves height and width.
        stem_channels: C of what comes before the first level.
        channels: C inside of the plugin, per level.
        layers_per_block: inverted residual blocks per level, the first of which changes the shape.
        expansion: their inner width in multiples of their channels.
        norm_num_groups: of the group norms.
    """

    @register_to_config
    def __init__(
        self,
        conditioning_channels: int = 3,
        conditioning_stride: int = 8,
        block_out_channels: Sequence[int] = (320, 640, 1024),
        stem_channels: int = 16,
        channels: Sequence[int] = (32, 64, 96),
        layers_per_block: int = 2,
        expansion: int = 4,
        norm_num_groups: int = 8,
    ) -> None:
        super().__init__()
        halvings = conditioning_stride.bit_length() - 1
        if conditioning_stride != 2**halvings or not halvings:
            raise ValueError(f"conditioning_stride is {conditioning_stride}, it must be a power of two above 1")
        if len(channels) != len(block_out_channels):
            raise ValueError(f"{len(channels)} levels of the plugin, {len(block_out_channels)} of the UNet")

        def block(entering: int, leaving: int, stride: int) -> nn.Module:
            return InvertedResidual(entering, leaving, stride, expansion, norm_num_groups)

        self.conv_in = nn.Conv2d(conditioning_channels, stem_channels, 3, stride=2, padding=1)
        self.activation = nn.ReLU6()
        self.stem = nn.Sequential(*(block(stem_channels, stem_channels, 2) for _ in range(halvings - 1)))
        widths = (stem_channels, *channels)
        self.levels = nn.ModuleList(
            nn.Sequential(
                block(widths[index], width, 2 if index else 1),
                *(block(width, width, 1) for _ in range(layers_per_block - 1)),
            )
            for index, width in enumerate(channels)
        )
        self.conv_out = nn.ModuleList(
            zero_module(nn.Conv2d(width, wanted, 1)) for width, wanted in zip(channels, block_out_channels, strict=True)
        )

    def forward(self, controlnet_cond: Tensor) -> tuple[Tensor, ...]:
        """Returns the features of every level, [N, C_l, h / 2^l, w / 2^l].

        Args:
            controlnet_cond: the picture that controls, in [0, 1], [N, 3, H, W].
        """
        x = self.stem(self.activation(self.conv_in(controlnet_cond)))
        features: list[Tensor] = []
        for level, out in zip(self.levels, self.conv_out, strict=True):
            x = level(x)
            features.append(out(x))
        return tuple(features)
