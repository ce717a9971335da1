"""Gemma 2 as a text encoder: Riviere et al., arXiv 2408.00118, section 2.

    h = h + n₂(O·softmax(50·tanh(q·kᵀ/(50·√256)) + mask)·V),  h = h + n₄(W₂·(gelu(W₀·n₃(h)) · W₁·n₃(h)))

n are norms without mean that multiply by 1 + w, q and k are turned by their places, several heads share keys and
values, and a token attends to itself and those before it. Numbers are those of the published models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError
from sdmobile.families import clip, rotary
from sdmobile.families.component import Component, Config, Model, Shapes
from sdmobile.families.shapes import count_blocks
from sdmobile.families.transformer_components import token_encoder

if TYPE_CHECKING:
    from torch import Tensor, nn

PAD = 0
"""Identifier that fills up a text at its end: what is masked."""
MOST_TOKENS = 4096
"""Of a text: more a bundle has no place for, and a layer with a window sees no further."""
_LAYERS = "layers."
_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "attention_bias",
)
# What the forward pass is of, and what other values would mean.
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "hidden_activation": ((None, "gelu_pytorch_tanh"), "another activation"),
    "use_bidirectional_attention": ((None, False), "tokens that attend to those behind them"),
}


def _build(config: Config) -> nn.Module:
    import torch
    from transformers import Gemma2Config, Gemma2Model

    settings = {key: config[key] for key in _KEYS if key in config}
    base = rotary.base_of(config)
    made = Gemma2Config(**settings, rope_parameters={"rope_type": "default", "rope_theta": base})
    module: Any = Gemma2Model(made)
    # In no file, as the frequencies; it has to hold a number though weights do not yet.
    scale = torch.tensor(made.hidden_size**0.5, device="cpu")
    module.embed_tokens.register_buffer("embed_scale", scale, persistent=False)
    rotary.keep_frequencies(module.rotary_emb, made.head_dim, base)
    return module


def _derive(shapes: Shapes) -> Config:
    facts: Config = {}
    if (token := shapes.get("embed_tokens.weight")) and len(token) == 2:
        facts |= {"vocab_size": token[0], "hidden_size": token[1]}
    if layers := count_blocks(shapes, _LAYERS):
        facts["num_hidden_layers"] = layers
    if (inner := shapes.get(f"{_LAYERS}0.mlp.gate_proj.weight")) and len(inner) == 2:
        facts["intermediate_size"] = inner[0]
    return facts


def _check(class_name: str, config: Config) -> None:
    clip.MODEL.check(class_name, config)
    rule = "the text encoder must be Gemma 2 as it was published"
    for key, (known, meaning) in _FIXED.items():
        if config.get(key) not in known:
            raise UnsupportedError(rule, f"{key} = {config[key]}: {meaning}")
    rotary.check(config, rule)
    for key, usual in (("attn_logit_softcapping", 50.0), ("query_pre_attn_scalar", 256)):
        value = config.get(key, usual)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UnsupportedError(f"{key} of Gemma 2 must be a number above 0", value)
    window = config.get("sliding_window", MOST_TOKENS)
    if window is not None and (type(window) is not int or window < MOST_TOKENS):
        raise UnsupportedError(f"layers of Gemma 2 must see {MOST_TOKENS} tokens", f"sliding_window = {window}")


def _reference(module: Any, inputs: Mapping[str, Tensor], rows: int) -> Tensor:
    from sdmobile.families.gemma2_encoder import chosen

    ids = inputs["input_ids"]
    mask = (ids != PAD).long()
    return chosen(module(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state, rows)


MODEL = Model(
    name="text_encoder",
    classes=("Gemma2Model",),
    build=_build,
    derive=_derive,
    check=_check,
    within="model.",
)


def text_encoder(rows: int) -> Component:
    """Returns the component that encodes texts and returns some rows of features.

    Args:
        rows: the first and the last rows − 1 of a text's tokens are returned.
    """

    def wrap(module: nn.Module, channels_last: bool) -> nn.Module:
        from sdmobile.families.gemma2_encoder import Gemma2TextEncoder

        return Gemma2TextEncoder(module, rows, PAD)

    return token_encoder(
        f"filled up at the end to the context length with {PAD}, which is masked",
        "last_hidden_state",
        f"Text features of the first token and the last {rows - 1}; those of padding mean nothing",
        wrap,
        lambda module, inputs: _reference(module, inputs, rows),
        rows=lambda g: rows,
    )
