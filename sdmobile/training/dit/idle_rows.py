"""Joint attention of Stable Diffusion 3 where many rows of text are alike, computed as one of them.

    softmax over k₁ … k_L and n times k₀  =  softmax over k₁ … k_L and k₀ + ln n

Diffusers' pipeline gives 256 rows of zeros in the place of T5. Tokens of text have no positions, so these rows are the
same in every layer; with one of them, whose scores are greater by ln 256, a training step has 142 tokens for 397.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from sdmobile.families.mmdit import T5_ROWS


def with_one_idle_row(features: torch.Tensor) -> torch.Tensor:
    """Returns the features of texts with one row of zeros behind them, [N, L + 1, D]."""
    return torch.nn.functional.pad(features, (0, 0, 0, 1))


class IdleRows:
    """An attention processor for Diffusers' `Attention`; the last row of text stands for 256.

    Softmax is written out: on CPUs, PyTorch's fused attention in bfloat16 has a backward pass four times slower than
    plain products (torch 2.13).
    """

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **_: Any
    ) -> Any:
        picture = self._projected(attn, hidden_states, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        if encoder_hidden_states is None:
            return attn.to_out[0](self._attended(attn, *picture))
        names = (("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k"))
        text = self._projected(attn, encoder_hidden_states, *names)
        joined = [torch.cat(pair, dim=2) for pair in zip(picture, text, strict=True)]
        answer = self._attended(attn, *joined, idle=True)
        tokens = hidden_states.shape[1]
        drawn, said = answer[:, :tokens], answer[:, tokens:]
        return attn.to_out[0](drawn), said if attn.context_pre_only else attn.to_add_out(said)

    @staticmethod
    def _projected(attn: Any, tokens: torch.Tensor, layers: tuple[str, ...], norms: tuple[str, ...]) -> list[Any]:
        """Returns queries, keys and values, each [N, heads, tokens, features]; the first two are normalised."""
        rows = [getattr(attn, name)(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for name in layers]
        found = [getattr(attn, name) for name in norms]
        return [*(rows[at] if norm is None else norm(rows[at]) for at, norm in enumerate(found)), rows[2]]

    @staticmethod
    def _attended(attn: Any, query: Any, key: Any, value: Any, idle: bool = False) -> torch.Tensor:
        scores = (query @ key.transpose(-1, -2)).float() / math.sqrt(query.shape[-1])
        if idle:
            more = torch.zeros(scores.shape[-1], device=scores.device)
            more[-1] = math.log(T5_ROWS)
            scores = scores + more
        return (scores.softmax(dim=-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)
