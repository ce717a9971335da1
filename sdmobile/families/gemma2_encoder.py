"""Gemma 2 as a file has it: texts of one length, four axes at most, and nothing but arithmetic.

Transformers makes masks of Booleans and repeats keys with five axes, which converters or an Android GPU refuse. This
forward pass runs the same modules. The soft cap stands between product and softmax, so that attention is written out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sdmobile.families.causal_attention import Places, as_rows, as_tokens, biases, heads, padding_table, places, turned


def chosen(features: Tensor, rows: int) -> Tensor:
    """Returns the first of a text's rows and the last rows − 1, [1, rows, D] of [1, L, D]."""
    length = features.shape[1]
    if length == rows:
        return features
    return torch.cat([features[:, :1], features[:, length - rows + 1 :]], dim=1)


class Gemma2TextEncoder(nn.Module):
    """Token ids (1, L), int32 or float32 -> rows of the last hidden state (1, rows, D).

    Args:
        component: a Gemma2Model.
        rows: see `chosen`.
        pad: identifier of the token that fills up a text.
    """

    padding: Tensor

    def __init__(self, component: Any, rows: int, pad: int) -> None:
        super().__init__()
        self.component = component
        self.rows = rows
        self.register_buffer("padding", padding_table(component.config.vocab_size, pad), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.is_floating_point():
            ids = ids.to(torch.int32)
        net = self.component
        hidden = nn.functional.embedding(ids, net.embed_tokens.weight) * net.config.hidden_size**0.5
        at = places(net.rotary_emb.inv_freq, ids.shape[1])
        bias = biases(ids, self.padding, net.layers[0].self_attn.num_key_value_groups)
        for layer in net.layers:
            attended = _attended(layer.self_attn, _normed(layer.input_layernorm, hidden), at, bias)
            hidden = hidden + _normed(layer.post_attention_layernorm, attended)
            inner = layer.mlp(_normed(layer.pre_feedforward_layernorm, hidden))
            hidden = hidden + _normed(layer.post_feedforward_layernorm, inner)
        return _normed(net.norm, chosen(hidden, self.rows))


def _normed(norm: Any, x: Tensor) -> Tensor:
    """Returns x under a norm of Gemma 2, n·(1 + w), as n + n·w: a file keeps w itself, not a rounded 1 + w."""
    normed = torch.rms_norm(x, (x.shape[-1],), None, norm.eps)
    return normed + normed * norm.weight


def _attended(attention: Any, x: Tensor, at: Places, bias: Tensor) -> Tensor:
    """Returns what tokens get from those up to themselves, [1, L, D].

        softmax(c·tanh(q·kᵀ/(c·√s)) + bias)·V,  c the soft cap, s `query_pre_attn_scalar`

    Args:
        attention: of a layer.
        x: normed features, [1, L, D].
        at: of `places`.
        bias: of `biases`.
    """
    width, cap = attention.head_dim, attention.attn_logit_softcapping
    query = turned(heads(attention.q_proj(x), width), at) * attention.scaling
    key, value = turned(heads(attention.k_proj(x), width), at), heads(attention.v_proj(x), width)
    # As einsum, products keep their four axes in an Android file.
    scores = torch.tanh(torch.einsum("bhqd,bhkd->bhqk", as_rows(query, key), key) / cap) * cap
    weights = torch.softmax(scores + bias, dim=-1)
    return attention.o_proj(as_tokens(torch.einsum("bhqk,bhkd->bhqd", weights, value), x.shape[1]))
