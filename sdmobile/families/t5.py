"""The encoder of T5 as a text encoder: Raffel et al., arXiv 1910.10683; gated as in T5 1.1, or plain.

    h = h + O·softmax(Q·Kᵀ + bias + mask)·V,  h = h + W₂·f(h̄),  f = gelu(W₀·h̄)·(W₁·h̄) or relu(W₁·h̄)

h̄ is h under a norm without mean; the products are not divided by √d. bias depends on how far two tokens lie apart,
mask is 0 for a token and −30000 for padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError
from sdmobile.families import clip
from sdmobile.families.component import Component, Config, Model, Shapes
from sdmobile.families.shapes import count_blocks
from sdmobile.families.transformer_components import token_encoder

if TYPE_CHECKING:
    from torch import Tensor, nn

PAD = 0
"""Identifier that fills up a text: what is masked."""
_BLOCKS = "encoder.block."
_ATTENTION = f"{_BLOCKS}0.layer.0.SelfAttention."
_INNER = f"{_BLOCKS}0.layer.1.DenseReluDense.wo.weight"
_FORWARD = ("relu", "gated-gelu")
_KEYS = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_heads",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "layer_norm_epsilon",
    "feed_forward_proj",
)


def _build(config: Config) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    settings = {key: config[key] for key in _KEYS if key in config}
    module: Any = T5EncoderModel(T5Config(**settings, attn_implementation="sdpa"))
    # The same matrix as `shared`, of which the weights are to have one name.
    module.encoder.embed_tokens = None
    return module


def _derive(shapes: Shapes) -> Config:
    facts: Config = {}
    if (token := shapes.get("shared.weight")) and len(token) == 2:
        facts |= {"vocab_size": token[0], "d_model": token[1]}
    if layers := count_blocks(shapes, _BLOCKS):
        facts["num_layers"] = layers
    if (bias := shapes.get(f"{_ATTENTION}relative_attention_bias.weight")) and len(bias) == 2:
        facts |= {"relative_attention_num_buckets": bias[0], "num_heads": bias[1]}
        if (query := shapes.get(f"{_ATTENTION}q.weight")) and bias[1] and query[0] % bias[1] == 0:
            facts["d_kv"] = query[0] // bias[1]
    if (inner := shapes.get(_INNER)) and len(inner) == 2:
        facts["d_ff"] = inner[1]
    return facts


def _check(class_name: str, config: Config) -> None:
    clip.MODEL.check(class_name, config)
    forward = config.get("feed_forward_proj", _FORWARD[0])
    if forward not in _FORWARD:
        raise UnsupportedError(f"feed_forward_proj of T5 must be one of {', '.join(_FORWARD)}", forward)
    buckets, most = config.get("relative_attention_num_buckets", 32), config.get("relative_attention_max_distance", 128)
    if type(buckets) is not int or type(most) is not int or not 4 <= buckets < 4 * most:
        rule = "T5 must have 4 buckets of distances at least, and a largest distance beyond a quarter of them"
        raise UnsupportedError(rule, f"relative_attention_num_buckets = {buckets}, {most} the largest distance")


def _reference(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    ids = inputs["input_ids"]
    mask = (ids != PAD).long()
    return module(inputs_embeds=module.shared(ids), attention_mask=mask).last_hidden_state


MODEL = Model(
    name="text_encoder",
    classes=("T5EncoderModel",),
    build=_build,
    derive=_derive,
    check=_check,
    unused=("encoder.embed_tokens.",),
)


def text_encoder(length: int) -> Component:
    """Returns the component that encodes texts of a number of tokens."""

    def wrap(module: nn.Module, channels_last: bool) -> nn.Module:
        from sdmobile.families.t5_encoder import T5TextEncoder

        return T5TextEncoder(module, length, PAD)

    return token_encoder(
        f"padded to the context length with {PAD}, which is masked",
        "last_hidden_state",
        "Text features, one row per token; those of padding mean nothing",
        wrap,
        _reference,
    )
