"""One small example per rule: the graph that its documentation pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdmobile.rewrites.winograd.selection import CpuTime, Policy

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """A graph that a rule is about.

    Args:
        function: of the inputs and then the weights.
        inputs: shapes of the inputs; the timestep is an input of shape (N,).
        weights: shapes of the weights.
        sizes: what the letters of the picture's shapes stand for.
        options: of the rule.
    """

    function: Callable[..., Tensor]
    inputs: tuple[Sizes, ...]
    weights: tuple[Sizes, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


class Pictured(nn.Module):
    """The function of an example; the first input comes from an operator, so that no graph begins with the picture."""

    def __init__(self, example: Example) -> None:
        super().__init__()
        self.function = example.function
        generator = torch.Generator().manual_seed(7)
        self.affine = nn.ParameterList(torch.randn(*size, generator=generator) for size in example.weights)

    def forward(self, *inputs: Tensor) -> Tensor:
        first = inputs[0] if inputs[0].ndim == 1 else torch.cumsum(inputs[0], 0)
        return torch.relu(self.function(first, *inputs[1:], *self.affine))


def _group_norm_written_out(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    grouped = x.reshape(len(x), 4, -1)
    d = grouped - grouped.mean(2, keepdim=True)
    y = d * torch.rsqrt((d * d).mean(2, keepdim=True) + 1e-5)
    return y.reshape(x.shape) * weight.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


def _layer_norm_written_out(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    d = x - x.mean(-1, keepdim=True)
    return d * torch.rsqrt((d * d).mean(-1, keepdim=True) + 1e-5) * weight + bias


def _rms_norm_written_out(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def _gelu_written_out(x: Tensor) -> Tensor:
    return x * 0.5 * (torch.erf(x / math.sqrt(2.0)) + 1.0)


def _attention_written_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    return torch.matmul(scores.softmax(-1), value)


def _computed_triangle(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    positions = torch.arange(query.shape[2])
    mask = positions[None, :] <= positions[:, None]
    return F.scaled_dot_product_attention(query, key, value, mask)


def _sinusoids(timestep: Tensor, weight: Tensor) -> Tensor:
    frequencies = torch.exp(torch.arange(4) * (-math.log(10000.0) / 4))
    phases = timestep[:, None] * frequencies[None]
    return F.linear(torch.cat([phases.cos(), phases.sin()], -1), weight)


def _time_of_block(image: Tensor, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return image + F.linear(features, weight, bias)[:, :, None, None]


def _geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    value, gate = F.linear(x, weight, bias).chunk(2, -1)
    return value * F.gelu(gate)


def _group_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.group_norm(x, 4, weight, bias)


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, (8,), weight, bias)


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (8,), weight, 1e-6)


def _self_attention(x: Tensor, *weights: Tensor) -> Tensor:
    q, k, v = (F.linear(x, w).view(*x.shape[:2], 2, 4).transpose(1, 2) for w in weights[:3])
    y = F.scaled_dot_product_attention(q, k, v)
    return F.linear(y.transpose(1, 2).reshape(*x.shape[:2], 8), weights[3], weights[4])


def _attention_with_scale(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, scale=0.25)


def _relu_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.mT * 0.25).relu() @ value


def _embedded(indices: Tensor, table: Tensor) -> Tensor:
    return F.embedding(indices.long(), table)


def _patches_to_pixels(x: Tensor) -> Tensor:
    return x.view(2, 6, 5, 3, 3, 8).permute(0, 5, 1, 3, 2, 4).reshape(2, 8, 18, 15)


def _turned(x: Tensor) -> Tensor:
    first, second = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack([-second, first], -1).flatten(3)


def _mask_of_heads(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, mask.repeat_interleave(3, 0).view(2, 3, 1, 7))


def _repeated_heads(x: Tensor, times: int = 2) -> Tensor:
    return x[:, :, None].expand(-1, -1, times, -1, -1).reshape(len(x), -1, *x.shape[2:])


def _grouped_keys(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, _repeated_heads(key), _repeated_heads(value), mask)


def _linear_attention(value: Tensor, key: Tensor, query: Tensor) -> Tensor:
    sums = F.pad(value, (0, 0, 0, 1), value=1.0) @ key.relu() @ query.relu()
    return sums[:, :, :-1] / (sums[:, :, -1:] + 1e-15)


_IMAGE, _CHANNELS = ((2, 8, 6, 5),), ((8,), (8,))
_TOKENS = ((2, 5, 8),)
_HEADS = ((2, 3, 6, 4), (2, 3, 7, 4), (2, 3, 7, 4))
_IMAGE_SIZES = {"N": 2, "C": 8, "H": 6, "W": 5, "G": 4, "D": 9}
_TOKEN_SIZES = {"N": 2, "S": 5, "C": 8}
_HEAD_SIZES = {"B": 2, "H": 3, "M": 6, "N": 7, "D": 4, "E": 4}


def _group_norm_example(function: Callable[..., Tensor]) -> Example:
    return Example(function, _IMAGE, _CHANNELS, _IMAGE_SIZES)


def _token_example(function: Callable[..., Tensor], weights: tuple[Sizes, ...] = ()) -> Example:
    return Example(function, _TOKENS, weights, _TOKEN_SIZES)


def _attention_example(function: Callable[..., Tensor] = F.scaled_dot_product_attention, **options: Any) -> Example:
    return Example(function, _HEADS, (), _HEAD_SIZES, options)


EXAMPLES = {
    "raise_group_norm": _group_norm_example(_group_norm_written_out),
    "raise_layer_norm": _token_example(_layer_norm_written_out, _CHANNELS),
    "raise_rms_norm": _token_example(_rms_norm_written_out, _CHANNELS[:1]),
    "raise_silu": _token_example(lambda x: x * torch.sigmoid(x)),
    "raise_gelu": _token_example(_gelu_written_out),
    "raise_attention": _attention_example(_attention_written_out),
    "raise_causal_mask": Example(_computed_triangle, ((2, 3, 6, 4),) * 3, (), {"B": 2, "H": 3, "N": 6, "E": 4}),
    "gelu_tanh": _token_example(F.gelu),
    "gelu_swish": _token_example(F.gelu),
    "relu_attention": _attention_example(approved=True),
    "permute_rank_4": Example(_patches_to_pixels, ((2, 30, 72),), (), {**_IMAGE_SIZES, "P": 3, "Q": 3}),
    "rotary_turn": Example(_turned, ((2, 5, 3, 8),), (), {"B": 2, "S": 5, "H": 3, "D": 8}),
    "attention_mask_heads": Example(_mask_of_heads, (*_HEADS, (2, 1, 7)), (), _HEAD_SIZES),
    "attention_grouped_keys": Example(
        _grouped_keys, ((2, 6, 5, 4), *[(2, 3, 7, 4)] * 2, (2, 1, 5, 7)), (), {**_HEAD_SIZES, "H": 6, "G": 3, "M": 5}
    ),
    "repeat_heads": Example(_repeated_heads, ((2, 3, 7, 4),), (), {**_HEAD_SIZES, "H": 6, "G": 3}),
    "repeat_channels": Example(lambda x: x.repeat_interleave(3, 1), _IMAGE, (), {**_IMAGE_SIZES, "R": 3}),
    "timestep_sinusoid": Example(_sinusoids, ((2,),), ((5, 8),), {"N": 2, "D": 8, "K": 1001}),
    "channel_bias": Example(_time_of_block, ((2, 8, 6, 5), (2, 9)), ((8, 9), (8,)), _IMAGE_SIZES),
    "embedding_columns": Example(
        _embedded, ((2, 3),), ((10, 6),), {"N": 2, "S": 3, "C": 6, "V": 10, "n": 2}, {"budget_bytes": 10 * 3 * 4}
    ),
    "geglu_split": Example(_geglu, _TOKENS, ((12, 8), (12,)), {**_TOKEN_SIZES, "F": 6}),
    "group_norm_instance_norm": _group_norm_example(_group_norm),
    "group_norm_nhwc_amax": _group_norm_example(_group_norm),
    "group_norm_channel_moments": _group_norm_example(_group_norm),
    "group_norm_composite": _group_norm_example(_group_norm),
    "layer_norm_plain": _token_example(_layer_norm, _CHANNELS),
    "layer_norm_amax": _token_example(_layer_norm, _CHANNELS),
    "layer_norm_composite": _token_example(_layer_norm, _CHANNELS),
    "rms_norm_plain": _token_example(_rms_norm, _CHANNELS[:1]),
    "rms_norm_amax": _token_example(_rms_norm, _CHANNELS[:1]),
    "rms_norm_composite": _token_example(_rms_norm, _CHANNELS[:1]),
    "linear_attention_amax": Example(_linear_attention, ((2, 3, 4, 7), (2, 3, 7, 4), (2, 3, 4, 6)), (), _HEAD_SIZES),
    "attention_sdpa": _attention_example(_attention_with_scale),
    "attention_split_einsum": Example(
        _self_attention, ((2, 5, 9),), ((8, 9),) * 3 + ((7, 8), (7,)), {"B": 2, "S": 5, "C": 9, "H": 2, "D": 4, "O": 7}
    ),
    "relu_attention_blocked": Example(
        _relu_attention, _HEADS, (), {**_HEAD_SIZES, "rows": 2}, {"budget_bytes": 2 * 3 * 2 * 7 * 2}
    ),
    "attention_composite": _attention_example(),
    "attention_blocked": Example(
        F.scaled_dot_product_attention, _HEADS, (), {**_HEAD_SIZES, "rows": 2}, {"budget_bytes": 2 * 3 * 2 * 7 * 2}
    ),
    "attention_partial_softmax": _attention_example(),
    "attention_plain": _attention_example(),
    "convolution_slices": Example(
        lambda x, w, b: F.conv2d(x, w, b, padding=1),
        ((1, 66, 24, 28),),
        ((64, 66, 3, 3), (64,)),
        {"N": 1, "C": 66, "D": 32, "E": 34, "O": 64, "H": 24, "W": 28},
        {"texture_rows": 36 * 9},
    ),
    "winograd_conv": Example(
        lambda x, w, b: F.conv2d(x, w, b, padding=1),
        ((2, 3, 8, 12),),
        ((5, 3, 3, 3), (5,)),
        {"N": 2, "C": 3, "O": 5, "H": 8, "W": 12, "h": 2, "w": 3, "m": 4, "n": 6},
        {"policy": Policy(min_speedup=1.0, time=CpuTime(ps_per_element={2: 1e9, 4: 0.0}))},
    ),
    "split_constants": _token_example(lambda x: x * 1.702),
}
