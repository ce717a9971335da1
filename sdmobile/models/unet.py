"""The UNet of the second paper, with one switch per design rule.

Zhao et al., "MobileDiffusion: Instant Text-to-Image Generation on Mobile Devices", arXiv 2311.16567, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn

from sdmobile.models.attention import AttnProcessor
from sdmobile.models.blocks import DownBlock, Level, MidBlock, UpBlock

if TYPE_CHECKING:
    from torch import Tensor


class WayDown:
    """The way down and the middle, which a UNet and its ControlNet have in common."""

    time_proj: nn.Module
    time_embedding: nn.Module
    conv_in: nn.Module
    down_blocks: nn.ModuleList
    mid_block: nn.Module | None

    def _make_way_down(self, config: Any) -> tuple[list[Level], list[int]]:
        """Makes the modules of a UNet's configuration; returns its levels and the channels of what is kept."""
        widths = tuple(config.block_out_channels)
        count, heads = len(widths), config.attention_head_dim
        relu = dict(config.relu_attention or {})
        time_channels = 4 * widths[0]
        levels = [
            Level(
                channels=widths[level],
                head_width=heads if isinstance(heads, int) else heads[level],
                self_attention=config.self_attention[level],
                separable=config.separable[level],
                groups=config.norm_num_groups,
                eps=config.norm_eps,
                time_channels=time_channels,
                context=config.cross_attention_dim,
                share_key_value=config.share_key_value,
                activation=config.feed_forward,
                multiplier=config.feed_forward_multiplier,
                self_normaliser=relu.get("self", "softmax"),
                cross_normaliser=relu.get("cross", "softmax"),
            )
            for level in range(count)
        ]
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], time_channels)
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)

        self.down_blocks = nn.ModuleList()
        kept = [widths[0]]
        for index, level in enumerate(levels):
            inputs = (kept[-1], *[level.channels] * (config.layers_per_block[index] - 1))
            last = index == count - 1
            self.down_blocks.append(DownBlock(level, inputs, config.transformer_layers_per_block[index], not last))
            kept += [level.channels] * (len(inputs) + (not last))

        middle = config.mid_transformer_layers
        self.mid_block = None if middle is None else MidBlock(levels[-1], middle)
        return levels, kept

    def _time(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Returns the timestep's embedding, [N, T]."""
        return self.time_embedding(self.time_proj(timestep.expand(sample.shape[0])).to(sample.dtype))

    def _go_down(
        self, x: Tensor, time: Tensor, text: Tensor, added: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Returns every feature map that is kept, and what leaves the middle.

        Args:
            x: what left the first convolution, [N, C, h, w].
            time, text: embeddings, [N, T] and [N, L, D].
            added: features of a plugin, one per level.
        """
        kept = [x]
        for index, block in enumerate(self.down_blocks):
            kept += block(kept[-1], time, text, None if added is None else added[index])
        return kept, kept[-1] if self.mid_block is None else self.mid_block(kept[-1], time, text)


class MobileUNet2DConditionModel(WayDown, ModelMixin, ConfigMixin):
    """A conditional UNet whose levels differ in what they do; arguments are named as in Diffusers where it has them.

    Args:
        sample_size: h = w of the latents that it was trained on.
        in_channels, out_channels: of the latents; more in than out for inpainting.
        block_out_channels: C per level, highest resolution first.
        layers_per_block: residual blocks per level on the way down; on the way up it is one more.
        transformer_layers_per_block: transformer blocks after each residual block on the way down, 0 for none.
        up_transformer_layers_per_block: the same on the way up, in the order of the levels; None for the same numbers.
        mid_transformer_layers: transformer blocks between the two residual blocks of the middle; None for no middle.
        self_attention: per level, whether transformers attend to the picture itself; they always attend to the text.
        separable: per level, whether residual blocks have depthwise-separable 3×3 convolutions.
        share_key_value: W_K = W_V in self-attention.
        feed_forward: gate of the feed-forward layer: "swiglu" (swish) or "geglu".
        feed_forward_multiplier: its inner width in multiples of C: 3 in the paper, 4 in Stable Diffusion.
        relu_attention: normaliser of ReLU attention ("none", "length") for "self" and "cross"; softmax where it is
            not named.
        cross_attention_dim: channels of the text features.
        attention_head_dim: channels per attention head, one for all levels or per level.
        norm_num_groups, norm_eps: of the group norms.
        distilled_guidance_scale: guidance scale whose prediction the caption's row alone gives; None where sampling
            must guide.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 4,
        out_channels: int = 4,
        block_out_channels: Sequence[int] = (320, 640, 1024),
        layers_per_block: Sequence[int] = (1, 1, 2),
        transformer_layers_per_block: Sequence[int] = (0, 1, 3),
        up_transformer_layers_per_block: Sequence[int] | None = (0, 1, 2),
        mid_transformer_layers: int | None = None,
        self_attention: Sequence[bool] = (False, False, True),
        separable: Sequence[bool] = (False, False, True),
        share_key_value: bool = True,
        feed_forward: str = "swiglu",
        feed_forward_multiplier: int = 3,
        relu_attention: Mapping[str, str] | None = None,
        cross_attention_dim: int = 768,
        attention_head_dim: int | Sequence[int] = 64,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        distilled_guidance_scale: float | None = None,
    ) -> None:
        super().__init__()
        levels, kept = self._make_way_down(self.config)
        widths, count = tuple(block_out_channels), len(levels)

        self.up_blocks = nn.ModuleList()
        up_layers = transformer_layers_per_block
        if up_transformer_layers_per_block is not None:
            up_layers = up_transformer_layers_per_block
        channels = widths[-1]
        for index in reversed(range(count)):
            level, inputs = levels[index], []
            for _ in range(layers_per_block[index] + 1):
                inputs.append(channels + kept.pop())
                channels = level.channels
            self.up_blocks.append(UpBlock(level, tuple(inputs), up_layers[index], index > 0))

        self.conv_norm_out = nn.GroupNorm(norm_num_groups, widths[0], eps=norm_eps)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        down_intrablock_additional_residuals: Sequence[Tensor] | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Returns the prediction, [N, C, h, w].

        Args:
            sample: noisy latents, [N, C, h, w].
            timestep: of the training schedule, [N] or [].
            encoder_hidden_states: text features, [N, L, D].
            down_block_additional_residuals: of a ControlNet, added to every feature map that is kept.
            mid_block_additional_residual: of a ControlNet, added where the way down ends.
            down_intrablock_additional_residuals: of a T2I-Adapter or plugin, one per level.
            return_dict: whether the prediction comes in an UNet2DConditionOutput, or in a tuple.
        """
        time = self._time(sample, timestep)
        kept, x = self._go_down(self.conv_in(sample), time, encoder_hidden_states, down_intrablock_additional_residuals)
        if mid_block_additional_residual is not None:
            x = x + mid_block_additional_residual
        if down_block_additional_residuals is not None:
            kept = [skip + more for skip, more in zip(kept, down_block_additional_residuals, strict=True)]
        for block in self.up_blocks:
            x = block(x, kept, time, encoder_hidden_states)
        prediction = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        return UNet2DConditionOutput(sample=prediction) if return_dict else (prediction,)


def attention_layers(unet: nn.Module) -> dict[str, Any]:
    """Returns the attention layers of a mobile UNet by name; `attn1` is self-attention, `attn2` cross-attention."""
    return {name: layer for name, layer in unet.named_modules() if name.rpartition(".")[2] in ("attn1", "attn2")}


def set_relu_attention(unet: MobileUNet2DConditionModel, normalisers: Mapping[str, str]) -> None:
    """Exchanges the weights of attention, in the module and in its configuration.

    Args:
        unet: changed in place.
        normalisers: of ReLU attention for "self" and "cross"; softmax where it is not named.
    """
    for name, layer in attention_layers(unet).items():
        layer.set_processor(AttnProcessor(normalisers.get("self" if name.endswith("attn1") else "cross", "softmax")))
    declare(unet, relu_attention=dict(normalisers))


def declare(unet: MobileUNet2DConditionModel, **values: Any) -> None:
    """Changes a UNet's configuration, also for `from_config`, which leaves out what was a default when it was made."""
    unet.register_to_config(**values)
    defaults: list[str] = unet.config.get("_use_default_values", [])
    defaults[:] = [key for key in defaults if key not in values]
