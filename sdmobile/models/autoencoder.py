"""An autoencoder whose decoder is thinner than its encoder, as the second paper's.

Zhao et al., "MobileDiffusion", arXiv 2311.16567: the decoder is pruned in width and depth. How wide each level is, the
paper's text does not say; `configurations.DECODER` comes within 0.3 % of its published size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import Decoder, DecoderOutput, DiagonalGaussianDistribution, Encoder
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

MID_BLOCKS = (None, "resnets", "attention")


class _NoMiddle(nn.Module):
    """Stands where Diffusers' decoder has its middle block."""

    def forward(self, x: Tensor, _embedding: Tensor | None = None) -> Tensor:
        return x


class MobileAutoencoderKL(ModelMixin, ConfigMixin):
    """A KL autoencoder (Rombach et al., arXiv 2112.10752) with a decoder of widths and depth of its own.

    Args:
        in_channels, out_channels: of a picture.
        latent_channels: C of a latent.
        block_out_channels: C per level of the encoder, highest resolution first.
        layers_per_block: residual blocks per level of the encoder.
        decoder_block_out_channels: C per level of the decoder, highest resolution first; as many levels.
        decoder_layers_per_block: residual blocks per level of the decoder.
        decoder_mid_block: what lies between latents and the lowest level: None for nothing, "resnets" for two residual
            blocks, "attention" for two with self-attention between them, which is quadratic in the latent's cells.
        norm_num_groups: of the group norms.
        sample_size: h = w of the pictures that it was trained on.
        scaling_factor: latents are multiplied by it after encoding and divided by it before decoding.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 8,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        decoder_block_out_channels: Sequence[int] = (64, 128, 256, 256),
        decoder_layers_per_block: int = 3,
        decoder_mid_block: str | None = None,
        norm_num_groups: int = 32,
        sample_size: int = 512,
        scaling_factor: float = 0.18215,
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        if len(decoder_block_out_channels) != levels:
            raise ValueError(f"{levels} levels of the encoder, {len(decoder_block_out_channels)} of the decoder")
        if decoder_mid_block not in MID_BLOCKS:
            raise ValueError(f"decoder_mid_block is {decoder_mid_block!r}, known are {MID_BLOCKS}")
        self.encoder = Encoder(
            in_channels=in_channels,
            out_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
        )
        self.decoder: Any = Decoder(
            in_channels=latent_channels,
            out_channels=out_channels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(decoder_block_out_channels),
            layers_per_block=decoder_layers_per_block - 1,  # Diffusers' decoder adds one
            norm_num_groups=norm_num_groups,
            mid_block_add_attention=decoder_mid_block == "attention",
        )
        if decoder_mid_block is None:
            self.decoder.mid_block = _NoMiddle()
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)

    def encode(self, image: Tensor, return_dict: bool = True) -> Any:
        """Returns the distribution of latents, [N, C, h, w], of pictures [N, 3, H, W] in [-1, 1]."""
        posterior = DiagonalGaussianDistribution(self.quant_conv(self.encoder(image)))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, latent: Tensor, return_dict: bool = True) -> Any:
        """Returns pictures, [N, 3, H, W] in [-1, 1], of latents [N, C, h, w]."""
        image = self.decoder(self.post_quant_conv(latent))
        return DecoderOutput(sample=image) if return_dict else (image,)
