"""Transformers of published sizes; what stands before and behind them is tiny, but of the widths that they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_DC_LEVELS = 6
_KL: dict[str, Any] = {
    "block_out_channels": [16] * 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 8,
    "sample_size": 1024,
}
"""An autoencoder of eight pixels a cell."""
_DC: dict[str, Any] = {
    f"{side}_{key}": value
    for side in ("encoder", "decoder")
    for key, value in {
        "block_types": ["ResBlock"] * (_DC_LEVELS - 1) + ["EfficientViTBlock"],
        "block_out_channels": [32] * _DC_LEVELS,
        "layers_per_block": [1] * _DC_LEVELS,
        "qkv_multiscales": [[]] * (_DC_LEVELS - 1) + [[5]],
    }.items()
}
"""One of 32 pixels a cell."""


@dataclass(frozen=True)
class Transformer:
    """A published transformer.

    Args:
        family: its name.
        source: of the figures.
        changes: to the configurations of the family's tiny checkpoint, by model.
        checked_at: resolution of the bundle that is compared with PyTorch, None for its own.
        checked: whether PyTorch can hold it in float32 on a computer of 24 GiB.
    """

    family: str
    source: str
    changes: dict[str, dict[str, Any]]
    checked_at: str | None = None
    checked: bool = True


TRANSFORMERS = {
    "pixart": Transformer(
        "pixart-sigma",
        "PixArt-Sigma-XL-2-1024-MS: Chen et al., arXiv 2403.04692; Diffusers' PixArtTransformer2DModel",
        {
            "transformer": {
                "sample_size": 128,
                "num_layers": 28,
                "attention_head_dim": 72,
                "num_attention_heads": 16,
                "cross_attention_dim": 1152,
                "caption_channels": 4096,
                "interpolation_scale": 2,
            },
            "text_encoder": {"d_model": 4096},
            "vae": _KL,
        },
        "256x256",
    ),
    "sana": Transformer(
        "sana-sprint",
        "SANA-Sprint 0.6B: Chen et al., arXiv 2503.09641; Xie et al., arXiv 2410.10629",
        {
            "transformer": {
                "sample_size": 32,
                "in_channels": 32,
                "out_channels": 32,
                "num_layers": 28,
                "num_attention_heads": 36,
                "attention_head_dim": 32,
                "num_cross_attention_heads": 16,
                "cross_attention_head_dim": 72,
                "cross_attention_dim": 1152,
                "caption_channels": 2304,
            },
            "text_encoder": {"hidden_size": 2304},
            "vae": {"latent_channels": 32, **_DC},
        },
    ),
    "flux2": Transformer(
        "flux2-klein",
        "FLUX.2 [klein] 4B: Black Forest Labs' own parameters, of 5 double and 20 single blocks of 24 heads",
        {
            "transformer": {
                "in_channels": 128,
                "num_layers": 5,
                "num_single_layers": 20,
                "attention_head_dim": 128,
                "num_attention_heads": 24,
                "joint_attention_dim": 7680,
                "timestep_guidance_channels": 256,
                "axes_dims_rope": [32] * 4,
            },
            "text_encoder": {"hidden_size": 2560},
            "vae": {**_KL, "latent_channels": 32},
        },
        "256x256",
    ),
    "z-image": Transformer(
        "z-image",
        "Z-Image-Turbo 6B: Z-Image team, arXiv 2511.22699; the defaults of Diffusers' ZImageTransformer2DModel",
        {
            "transformer": {
                "dim": 3840,
                "n_layers": 30,
                "n_refiner_layers": 2,
                "n_heads": 30,
                "n_kv_heads": 30,
                "cap_feat_dim": 2560,
                "axes_dims": [32, 48, 48],
                "axes_lens": [1536, 512, 512],
            },
            "text_encoder": {"hidden_size": 2560},
            "vae": {**_KL, "latent_channels": 16},
        },
        checked=False,
    ),
}
