"""Qwen3 as a file has it: texts of one length, four axes at most, and nothing but arithmetic.

Transformers makes masks of Booleans and repeats keys with five axes, which converters or an Android GPU refuse. This
forward pass runs the same modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sdmobile.families.causal_attention import Places, as_rows, as_tokens, biases, heads, padding_table, places, turned


class Qwen3TextEncoder(nn.Module):
    """Token ids (1, L), int32 or float32 -> features after each chosen layer, side by side (1, L, n·D).

    Args:
        component: a Qwen3Model of as many layers as are needed.
        layers: numbers of layers after which features are taken.
        pad: identifier of the token that fills up a text.
    """

    padding: Tensor

    def __init__(self, component: Any, layers: tuple[int, ...], pad: int) -> None:
        super().__init__()
        self.component = component
        self.layers = layers
        self.register_buffer("padding", padding_table(component.config.vocab_size, pad), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.is_floating_point():
            ids = ids.to(torch.int32)
        net = self.component
        hidden = net.embed_tokens(ids)
        at = places(net.rotary_emb.inv_freq, ids.shape[1])
        bias = biases(ids, self.padding, net.layers[0].self_attn.num_key_value_groups)
        states = [hidden]
        for layer in net.layers:
            hidden = hidden + _attended(layer.self_attn, _normed(layer.input_layernorm, hidden), at, bias)
            hidden = hidden + layer.mlp(_normed(layer.post_attention_layernorm, hidden))
            states.append(hidden)
        return torch.cat([states[number] for number in self.layers], dim=2)


def _normed(norm: Any, x: Tensor) -> Tensor:
    return torch.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _attended(attention: Any, x: Tensor, at: Places, bias: Tensor) -> Tensor:
    """Returns what tokens get from those up to themselves, [1, L, D].

    Args:
        attention: of a layer.
        x: normed features, [1, L, D].
        at: of `places`.
        bias: of `biases`.
    """
    width = attention.head_dim
    query = turned(_normed(attention.q_norm, heads(attention.q_proj(x), width)), at)
    key = turned(_normed(attention.k_norm, heads(attention.k_proj(x), width)), at)
    value = heads(attention.v_proj(x), width)
    rows = scaled_dot_product_attention(as_rows(query, key), key, value, attn_mask=bias, scale=attention.scaling)
    return attention.o_proj(as_tokens(rows, x.shape[1]))
