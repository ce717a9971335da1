"""Full-size configurations, from Stable Diffusion 1.5 to MobileDiffusion, one design rule after the other.

The paper's tables give rows, not widths, and its parameter counts do not identify them: `mobile-diffusion` and
`mobile-diffusion-lite` are **reconstructions** whose counts come within 0.3 % and 0.7 % of the published
386 M and 257 M.
"""

from __future__ import annotations

from typing import Any

STABLE_DIFFUSION_15: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": (2, 2, 2, 2),
    "transformer_layers_per_block": (1, 1, 1, 0),
    "up_transformer_layers_per_block": None,
    "mid_transformer_layers": 1,
    "self_attention": (True, True, True, True),
    "separable": (False, False, False, False),
    "share_key_value": False,
    "feed_forward": "geglu",
    "feed_forward_multiplier": 4,
    "cross_attention_dim": 768,
    "attention_head_dim": (40, 80, 160, 160),
    "norm_num_groups": 32,
}
"""UNet2DConditionModel of Stable Diffusion 1.5 in our switches: the same parameters under the same names."""

MOBILE_DIFFUSION_LITE: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (320, 640, 896),
    "layers_per_block": (1, 1, 2),
    "transformer_layers_per_block": (0, 1, 3),
    "up_transformer_layers_per_block": (0, 1, 2),
    "mid_transformer_layers": None,
    "self_attention": (False, False, True),
    "separable": (False, False, True),
    "share_key_value": True,
    "feed_forward": "swiglu",
    "feed_forward_multiplier": 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 64,
    "norm_num_groups": 32,
}

MOBILE_DIFFUSION: dict[str, Any] = MOBILE_DIFFUSION_LITE | {
    "block_out_channels": (320, 640, 1024),
    "up_transformer_layers_per_block": (0, 1, 3),
    "mid_transformer_layers": 1,
}

UNETS: dict[str, dict[str, Any]] = {
    "mobile-diffusion": MOBILE_DIFFUSION,
    "mobile-diffusion-lite": MOBILE_DIFFUSION_LITE,
}

DECODER: dict[str, Any] = {
    "latent_channels": 8,
    "decoder_block_out_channels": (64, 128, 256, 256),
    "decoder_layers_per_block": 3,
    "decoder_mid_block": None,
}
"""Of MobileAutoencoderKL: 9.77 M parameters in the decoder, where the paper says 9.8 M."""
