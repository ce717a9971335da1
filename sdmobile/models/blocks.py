"""Blocks of the mobile UNet, made of Diffusers' layers and named as Diffusers names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from sdmobile.models.attention import SeparableConv2d, attention

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Level:
    """What the blocks of one resolution have in common.

    Args:
        channels: C of every block's output.
        head_width: channels per attention head.
        self_attention: whether a transformer block attends to the picture itself before it attends to the text.
        separable: whether 3×3 convolutions of residual blocks are depthwise-separable.
        groups, eps: of the group norms.
        time_channels: of the timestep's embedding.
        context: channels of the text features.
        share_key_value: W_K = W_V in self-attention.
        activation, multiplier: of the gated feed-forward layer, `swiglu` or `geglu`, inner width in multiples of C.
        self_normaliser, cross_normaliser: "softmax", or the normaliser of ReLU attention.
    """

    channels: int
    head_width: int
    self_attention: bool
    separable: bool
    groups: int
    eps: float
    time_channels: int
    context: int
    share_key_value: bool
    activation: str
    multiplier: int
    self_normaliser: str
    cross_normaliser: str


class TransformerBlock(nn.Module):
    """x ← x + SA(LN x), where there is self-attention; x ← x + CA(LN x, text); x ← x + FF(LN x); on [N, S, C]."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        width, head = level.channels, level.head_width
        self.attn1 = None
        if level.self_attention:
            self.norm1 = nn.LayerNorm(width)
            self.attn1 = attention(width, head, None, level.share_key_value, level.self_normaliser)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = attention(width, head, level.context, False, level.cross_normaliser)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, mult=level.multiplier, activation_fn=level.activation)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Returns [N, S, C] of [N, S, C] and text features [N, L, D]."""
        if self.attn1 is not None:
            x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), encoder_hidden_states=text)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    """Transformer blocks on the cells of a feature map, between two 1×1 convolutions: Rombach et al., arXiv 2112.10752.

    Args:
        level: its resolution's facts.
        layers: number of transformer blocks.
    """

    def __init__(self, level: Level, layers: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(level.groups, level.channels, eps=1e-6)
        self.proj_in = nn.Conv2d(level.channels, level.channels, 1)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(level) for _ in range(layers))
        self.proj_out = nn.Conv2d(level.channels, level.channels, 1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Returns [N, C, H, W] of [N, C, H, W] and text features [N, L, D]."""
        batch, channels, height, width = x.shape
        tokens = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        for block in self.transformer_blocks:
            tokens = block(tokens, text)
        return x + self.proj_out(tokens.reshape(batch, height, width, channels).permute(0, 3, 1, 2))


def residual_block(level: Level, channels: int) -> ResnetBlock2D:
    """Returns Diffusers' residual block from so many channels to the level's, separable where the level is."""
    block: Any = ResnetBlock2D(
        in_channels=channels,
        out_channels=level.channels,
        temb_channels=level.time_channels,
        groups=level.groups,
        eps=level.eps,
    )
    if level.separable:
        block.conv1 = SeparableConv2d(channels, level.channels)
        block.conv2 = SeparableConv2d(level.channels, level.channels)
    return block


class Block(nn.Module):
    """Residual blocks of one resolution, each followed by its transformer where the level has them.

    Args:
        level: its facts.
        inputs: channels that each residual block takes.
        layers: transformer blocks after each residual block.
    """

    def __init__(self, level: Level, inputs: tuple[int, ...], layers: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(residual_block(level, channels) for channels in inputs)
        self.attentions = nn.ModuleList(Transformer(level, layers) for _ in inputs if layers)

    def step(self, index: int, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        """Returns x after one residual block and its transformer."""
        x = self.resnets[index](x, time)
        return self.attentions[index](x, text) if len(self.attentions) else x


class DownBlock(Block):
    """A level of the encoder; every residual block's output, and the downsampled one, is kept for the decoder."""

    def __init__(self, level: Level, inputs: tuple[int, ...], layers: int, downsample: bool) -> None:
        super().__init__(level, inputs, layers)
        self.downsamplers = nn.ModuleList(
            [Downsample2D(level.channels, use_conv=True, out_channels=level.channels, name="op")] if downsample else []
        )

    def forward(self, x: Tensor, time: Tensor, text: Tensor, added: Tensor | None = None) -> list[Tensor]:
        """Returns the feature maps to keep, the last of which goes on.

        Args:
            x: [N, C, H, W].
            time, text: embeddings, [N, T] and [N, L, D].
            added: features of an adapter, added to the level's last residual block, [N, C', H, W].
        """
        kept: list[Tensor] = []
        for index in range(len(self.resnets)):
            x = self.step(index, x, time, text)
            if added is not None and index == len(self.resnets) - 1:
                x = x + added
            kept.append(x)
        return [*kept, *(down(x) for down in self.downsamplers)]


class MidBlock(nn.Module):
    """Two residual blocks with a transformer between them, at the lowest resolution."""

    def __init__(self, level: Level, layers: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(residual_block(level, level.channels) for _ in range(2))
        self.attentions = nn.ModuleList([Transformer(level, layers)] if layers else [])

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        """Returns [N, C, H, W]."""
        x = self.resnets[0](x, time)
        for transformer in self.attentions:
            x = transformer(x, text)
        return self.resnets[1](x, time)


class UpBlock(Block):
    """A level of the decoder; every residual block takes one feature map that the encoder kept."""

    def __init__(self, level: Level, inputs: tuple[int, ...], layers: int, upsample: bool) -> None:
        super().__init__(level, inputs, layers)
        self.upsamplers = nn.ModuleList(
            [Upsample2D(level.channels, use_conv=True, out_channels=level.channels)] if upsample else []
        )

    def forward(self, x: Tensor, kept: list[Tensor], time: Tensor, text: Tensor) -> Tensor:
        """Returns [N, C, 2·H, 2·W], or [N, C, H, W] at the top; takes its feature maps off the end of `kept`."""
        for index in range(len(self.resnets)):
            x = self.step(index, torch.cat([x, kept.pop()], dim=1), time, text)
        for up in self.upsamplers:
            x = up(x)
        return x
