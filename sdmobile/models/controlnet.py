"""A ControlNet of the mobile UNet: Zhang et al., arXiv 2302.05543.

    r_i = s·Z_i(F_i(x_t + E(c), t, text)),        ε = UNet(x_t, t, text; kept_i + r_i, middle + r_n)

F is a copy of the UNet's way down and middle, E embeds the condition, Z_i are 1×1 convolutions. Those and the last
convolution of E start at zero, so that an untrained ControlNet changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.controlnets.controlnet import (
    ControlNetConditioningEmbedding,
    ControlNetOutput,
    zero_module,
)
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from sdmobile.models.unet import WayDown

if TYPE_CHECKING:
    from torch import Tensor


class MobileControlNetModel(WayDown, ModelMixin, ConfigMixin):
    """Residuals for every feature map that a mobile UNet keeps, and for its middle.

    Args:
        in_channels: of the latents.
        conditioning_channels: of the picture that controls.
        conditioning_embedding_out_channels: C per level of the embedding of that picture; each level after the first
            halves height and width, so that k levels make 2^(k−1) pixels one latent cell.
        block_out_channels, layers_per_block, transformer_layers_per_block, mid_transformer_layers, self_attention,
            separable, share_key_value, feed_forward, feed_forward_multiplier, relu_attention, cross_attention_dim,
            attention_head_dim, norm_num_groups, norm_eps: as in `MobileUNet2DConditionModel`, whose values they are.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        conditioning_channels: int = 3,
        conditioning_embedding_out_channels: Sequence[int] = (16, 32, 96, 256),
        block_out_channels: Sequence[int] = (320, 640, 1024),
        layers_per_block: Sequence[int] = (1, 1, 2),
        transformer_layers_per_block: Sequence[int] = (0, 1, 3),
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
    ) -> None:
        super().__init__()
        levels, kept = self._make_way_down(self.config)
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(
            conditioning_embedding_channels=block_out_channels[0],
            conditioning_channels=conditioning_channels,
            block_out_channels=tuple(conditioning_embedding_out_channels),
        )
        self.controlnet_down_blocks = nn.ModuleList(zero_module(nn.Conv2d(width, width, 1)) for width in kept)
        self.controlnet_mid_block = zero_module(nn.Conv2d(levels[-1].channels, levels[-1].channels, 1))

    @property
    def conditioning_stride(self) -> int:
        """Pixels of the condition per latent cell, along one axis."""
        return 2 ** (len(self.config["conditioning_embedding_out_channels"]) - 1)

    @classmethod
    def from_unet(
        cls, unet: Any, conditioning_embedding_out_channels: Sequence[int] = (16, 32, 96, 256), **more: Any
    ) -> MobileControlNetModel:
        """Returns a ControlNet whose way down and middle are those of a UNet and whose residuals are zero.

        Args:
            unet: a MobileUNet2DConditionModel.
            conditioning_embedding_out_channels: C per level of the condition's embedding.
            more: further arguments that are not the UNet's.
        """
        own: set[str] = set(cls._get_init_keys(cls))
        shared = {key: value for key, value in unet.config.items() if key in own}
        net: Any = cls(**shared, conditioning_embedding_out_channels=conditioning_embedding_out_channels, **more)
        copied = net.state_dict()
        copied.update({name: value for name, value in unet.state_dict().items() if name in copied})
        net.load_state_dict(copied)
        return net

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: float = 1.0,
        return_dict: bool = True,
    ) -> ControlNetOutput | tuple[tuple[Tensor, ...], Tensor]:
        """Returns the residuals of every feature map that is kept, and that of the middle.

        Args:
            sample: noisy latents, [N, C, h, w].
            timestep: of the training schedule, [N] or [].
            encoder_hidden_states: text features, [N, L, D].
            controlnet_cond: the picture that controls, in [0, 1], [N, 3, H, W].
            conditioning_scale: s, by which all residuals are multiplied.
            return_dict: whether they come in a ControlNetOutput, or in a tuple.
        """
        time = self._time(sample, timestep)
        x = self.conv_in(sample) + self.controlnet_cond_embedding(controlnet_cond)
        kept, middle = self._go_down(x, time, encoder_hidden_states)
        pairs = zip(self.controlnet_down_blocks, kept, strict=True)
        down = tuple(zero(one) * conditioning_scale for zero, one in pairs)
        mid = self.controlnet_mid_block(middle) * conditioning_scale
        if not return_dict:
            return down, mid
        return ControlNetOutput(down_block_res_samples=down, mid_block_res_sample=mid)
