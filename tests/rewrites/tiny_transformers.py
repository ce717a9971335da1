"""Tiny models of the families that diffusion transformers bring, with random weights, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import Tensor, nn
from transformers.models.gemma2.configuration_gemma2 import Gemma2Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2Model
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

Case = tuple[nn.Module, tuple[Tensor, ...]]
TOKENS = 7
_LATENT = (1, 4, 8, 8)


class Wrapped(nn.Module):
    """A model and how it is called."""

    def __init__(self, model: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.component = model
        self.call = call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(self.component, *inputs)


def _text_mask() -> Tensor:
    """The last two tokens fill up."""
    return (torch.arange(TOKENS) < TOKENS - 2).float()[None]


def sd3() -> Case:
    sizes: dict[str, Any] = {"sample_size": 8, "pos_embed_max_size": 12, "num_layers": 1, "qk_norm": "rms_norm"}
    heads: dict[str, Any] = {"attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32}
    text: dict[str, Any] = {"joint_attention_dim": 16, "pooled_projection_dim": 24}
    model = SD3Transformer2DModel(in_channels=4, out_channels=4, patch_size=2, **sizes, **heads, **text)

    def call(model: nn.Module, x: Tensor, t: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        return model(x, text, pooled, t, return_dict=False)[0]

    inputs = (torch.randn(_LATENT), torch.tensor([500.0]), torch.randn(1, TOKENS, 16), torch.randn(1, 24))
    return Wrapped(model, call), inputs


def pixart() -> Case:
    sizes: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16}
    others: dict[str, Any] = {"num_layers": 1, "sample_size": 8, "caption_channels": 12}
    model = PixArtTransformer2DModel(in_channels=4, out_channels=4, use_additional_conditions=False, **sizes, **others)

    def call(model: nn.Module, x: Tensor, t: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        conditions = {"resolution": None, "aspect_ratio": None}
        masked: dict[str, Any] = {"encoder_attention_mask": mask, "added_cond_kwargs": conditions}
        return model(x, text, t, **masked, return_dict=False)[0]

    return Wrapped(model, call), (torch.randn(_LATENT), torch.tensor([500.0]), torch.randn(1, TOKENS, 12), _text_mask())


def sana() -> Case:
    sizes: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "sample_size": 8}
    cross: dict[str, Any] = {"num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16}
    model = SanaTransformer2DModel(in_channels=4, out_channels=4, caption_channels=12, patch_size=1, **sizes, **cross)

    def call(model: nn.Module, x: Tensor, t: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        return model(x, text, t, encoder_attention_mask=mask, return_dict=False)[0]

    return Wrapped(model, call), (torch.randn(_LATENT), torch.tensor([500.0]), torch.randn(1, TOKENS, 12), _text_mask())


def dc_ae() -> Case:
    sides: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_block_types"] = ("ResBlock", "EfficientViTBlock")
        sides[f"{side}_block_out_channels"] = (16, 32)
        sides[f"{side}_layers_per_block"] = (1, 1)
        sides[f"{side}_qkv_multiscales"] = ((), (5,))
    model = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=8, upsample_block_type="interpolate", **sides
    )
    return Wrapped(model.decoder, lambda decoder, x: decoder(x)), (torch.randn(1, 4, 4, 4),)


def _added(batch: int = 1) -> Tensor:
    """A mask that is added: causal, and the last two tokens fill up."""
    seen = torch.ones(TOKENS, TOKENS).tril() * _text_mask()
    return ((1 - seen) * -3e4).expand(batch, 1, TOKENS, TOKENS).contiguous()


_DECODER: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "head_dim": 8,
}


def qwen3() -> Case:
    model = Qwen3Model(Qwen3Config(**_DECODER, num_attention_heads=4, num_key_value_heads=2))

    def call(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        return model(input_ids=ids, attention_mask={"full_attention": mask}, use_cache=False).last_hidden_state

    return Wrapped(model, call), (torch.randint(1, 50, (1, TOKENS)).int(), _added())


def gemma2() -> Case:
    config = Gemma2Config(**_DECODER, num_attention_heads=4, num_key_value_heads=2, query_pre_attn_scalar=8)
    model = Gemma2Model(config)

    def call(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        masks = {"full_attention": mask, "sliding_attention": mask}
        return model(input_ids=ids, attention_mask=masks, use_cache=False).last_hidden_state

    return Wrapped(model, call), (torch.randint(1, 50, (1, TOKENS)).int(), _added())


CASES: dict[str, Callable[[], Case]] = {
    "sd3": sd3,
    "pixart": pixart,
    "sana": sana,
    "dc_ae": dc_ae,
    "qwen3": qwen3,
    "gemma2": gemma2,
}


def case(name: str) -> Case:
    """Returns a model whose norms and biases are no longer as they were initialised, and its inputs."""
    torch.manual_seed(0)
    module, inputs = CASES[name]()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return module.eval().requires_grad_(False), inputs
