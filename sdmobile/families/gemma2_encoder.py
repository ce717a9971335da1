"""Gemma 2 as a file has it: texts of one length, four axes at most, and nothing but arithmetic.

Transformers makes masks of Booleans and repeats keys with five axes, which converters or an Android GPU refuse. This
forward pass runs the same modules. Heads that share keys and values are neighbours, so that their queries are rows of
one head; the soft cap stands between product and softmax, so that attention is written out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdmobile.families.t5_encoder import MASKED


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
        table = MASKED * torch.eye(component.config.vocab_size, 1).roll(pad, 0)
        self.register_buffer("padding", table, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.is_floating_point():
            ids = ids.to(torch.int32)
        net = self.component
        length = ids.shape[1]
        hidden = nn.functional.embedding(ids, net.embed_tokens.weight) * net.config.hidden_size**0.5
        places, bias = self._places(length), self._bias(ids)
        for layer in net.layers:
            attended = _attended(layer.self_attn, _normed(layer.input_layernorm, hidden), places, bias)
            hidden = hidden + _normed(layer.post_attention_layernorm, attended)
            inner = layer.mlp(_normed(layer.pre_feedforward_layernorm, hidden))
            hidden = hidden + _normed(layer.post_feedforward_layernorm, inner)
        return _normed(net.norm, chosen(hidden, self.rows))

    def _places(self, length: int) -> tuple[Tensor, Tensor]:
        """Returns cosine and sine of each place's turns, [L, d]; the first half of a sine turns back."""
        phases = torch.arange(length, dtype=torch.float32)[:, None] * self.component.rotary_emb.inv_freq
        cosine, sine = torch.cos(phases), torch.sin(phases)
        return torch.cat([cosine, cosine], dim=1), torch.cat([-sine, sine], dim=1)

    def _bias(self, ids: Tensor) -> Tensor:
        """Returns what is added to scores: −30000 for padding and for tokens behind the own, [1, 1, sharing·L, L].

        Made of the identifiers, so that it is no constant: an Android GPU does not repeat those for heads.
        """
        length, sharing = ids.shape[1], self.component.layers[0].self_attn.num_key_value_groups
        behind = torch.from_numpy(np.triu(np.full((length, length), MASKED, dtype=np.float32), 1))
        bias = (behind + nn.functional.embedding(ids, self.padding).transpose(1, 2)).unsqueeze(1)
        return torch.cat([bias] * sharing, dim=2)


def _normed(norm: Any, x: Tensor) -> Tensor:
    """Returns x under a norm of Gemma 2, n·(1 + w), as n + n·w: a file keeps w itself, not a rounded 1 + w."""
    normed = torch.rms_norm(x, (x.shape[-1],), None, norm.eps)
    return normed + normed * norm.weight


def _turned(x: Tensor, places: tuple[Tensor, Tensor]) -> Tensor:
    """Returns features turned by their places, [1, H, L, d]: pairs are a feature of each half."""
    cosine, sine = places
    half = x.shape[-1] // 2
    return x * cosine + torch.cat([x[..., half:], x[..., :half]], dim=-1) * sine


def _attended(attention: Any, x: Tensor, places: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
    """Returns what tokens get from those up to themselves, [1, L, D].

        softmax(c·tanh(q·kᵀ/(c·√s)) + bias)·V,  c the soft cap, s `query_pre_attn_scalar`

    Args:
        attention: of a layer.
        x: normed features, [1, L, D].
        places: of `_places`.
        bias: of `_bias`.
    """
    length, sharing = x.shape[1], attention.num_key_value_groups
    cap = attention.attn_logit_softcapping

    def heads(features: Tensor) -> Tensor:
        return features.unflatten(2, (-1, attention.head_dim)).transpose(1, 2)

    query = _turned(heads(attention.q_proj(x)), places) * attention.scaling
    key, value = _turned(heads(attention.k_proj(x)), places), heads(attention.v_proj(x))
    rows = query.reshape(1, key.shape[1], sharing * length, attention.head_dim)
    # As einsum, products keep their four axes in an Android file.
    scores = torch.tanh(torch.einsum("bhqd,bhkd->bhqk", rows, key) / cap) * cap
    weights = torch.softmax(scores + bias, dim=-1)
    own = torch.einsum("bhqk,bhkd->bhqd", weights, value).reshape(1, -1, length, attention.head_dim)
    return attention.o_proj(own.transpose(1, 2).flatten(2))
