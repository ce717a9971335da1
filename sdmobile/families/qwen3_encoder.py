"""Qwen3 as a file has it: texts of one length, four axes at most, and nothing but arithmetic; see `gemma2_encoder`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, scaled_dot_product_attention

from sdmobile.families.gemma2_encoder import turned
from sdmobile.families.t5_encoder import MASKED


class Qwen3TextEncoder(nn.Module):
    """Token ids (1, L), int32 or float32 -> hidden states (1, L, D·layers).

    Args:
        component: a Qwen3Model.
        layers: numbers of layers behind which hidden states are taken.
        pad: identifier of the token that fills up a text.
    """

    padding: Tensor

    def __init__(self, component: Any, layers: tuple[int, ...], pad: int) -> None:
        super().__init__()
        self.component = component
        self.layers = layers
        table = MASKED * torch.eye(component.config.vocab_size, 1).roll(pad, 0)
        self.register_buffer("padding", table, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.is_floating_point():
            ids = ids.to(torch.int32)
        net = self.component
        hidden = net.embed_tokens(ids)
        places, bias = self._places(ids.shape[1]), self._bias(ids)
        states: dict[int, Tensor] = {}
        for number, layer in enumerate(net.layers[: max(self.layers)], start=1):
            hidden = hidden + _attended(layer.self_attn, _normed(layer.input_layernorm, hidden), places, bias)
            hidden = hidden + layer.mlp(_normed(layer.post_attention_layernorm, hidden))
            states[number] = hidden
        chosen = [states[number] for number in self.layers]
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)

    def _places(self, length: int) -> tuple[Tensor, Tensor]:
        """Returns cosine and sine of each place's turns, [L, d]; the first half of a sine turns back."""
        phases = torch.arange(length, dtype=torch.float32)[:, None] * self.component.rotary_emb.inv_freq
        cosine, sine = torch.cos(phases), torch.sin(phases)
        return torch.cat([cosine, cosine], dim=1), torch.cat([-sine, sine], dim=1)

    def _bias(self, ids: Tensor) -> Tensor:
        """Returns what is added to scores: −30000 for padding and for tokens behind the own, [1, 1, sharing·L, L]."""
        length, sharing = ids.shape[1], self.component.layers[0].self_attn.num_key_value_groups
        behind = torch.from_numpy(np.triu(np.full((length, length), MASKED, dtype=np.float32), 1))
        bias = (behind + embedding(ids, self.padding).transpose(1, 2)).unsqueeze(1)
        return torch.cat([bias] * sharing, dim=2)


def _normed(norm: Any, x: Tensor) -> Tensor:
    """Returns x under a norm of Qwen3."""
    return torch.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _attended(attention: Any, x: Tensor, places: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
    """Returns what tokens get from those up to themselves, [1, L, D]; heads that share keys are rows of one head."""
    length, sharing = x.shape[1], attention.num_key_value_groups

    def heads(features: Tensor, norm: Any = None) -> Tensor:
        split = features.unflatten(2, (-1, attention.head_dim))
        return (split if norm is None else _normed(norm, split)).transpose(1, 2)

    query = turned(heads(attention.q_proj(x), attention.q_norm), places)
    key, value = turned(heads(attention.k_proj(x), attention.k_norm), places), heads(attention.v_proj(x))
    rows = query.reshape(1, key.shape[1], sharing * length, attention.head_dim)
    own = scaled_dot_product_attention(rows, key, value, attn_mask=bias, scale=attention.scaling)
    return attention.o_proj(own.reshape(1, -1, length, attention.head_dim).transpose(1, 2).flatten(2))
