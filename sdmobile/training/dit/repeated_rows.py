"""Joint attention of Stable Diffusion 3 where many rows of text are alike, computed as one of them.

    softmax over k₁ … k_L and n times k₀  =  softmax over k₁ … k_L and k₀ + ln n

Diffusers' pipeline gives 256 rows of zeros in the place of T5. Tokens of text have no positions, so these rows are the
same in every layer; with one of them, whose scores are greater by ln 256, a training step has 142 tokens for 397.

The padding behind a text is alike too, though not the same: a training step that takes one row of it, drawn anew each
time, for all of them has about 90 tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from sdmobile.families.mmdit import T5_ROWS

if TYPE_CHECKING:
    import numpy as np


def with_one_idle_row(features: torch.Tensor) -> torch.Tensor:
    """Returns the features of texts with one row of zeros behind them, [N, L + 1, D]."""
    return torch.nn.functional.pad(features, (0, 0, 0, 1))


def with_one_padding_row(features: torch.Tensor, longest: int, rng: np.random.Generator) -> tuple[torch.Tensor, int]:
    """Returns the first rows of texts and one row of padding, [N, longest + 1, D], and how many that one stands for.

    Args:
        features: of texts, [N, L, D].
        longest: rows of the longest text, at most L − 1.
        rng: draws the row.
    """
    rows = features.shape[1]
    padding = int(rng.integers(longest, rows))
    return torch.cat([features[:, :longest], features[:, padding : padding + 1]], dim=1), rows - longest


class RepeatedRows:
    """An attention processor for Diffusers' `Attention`; the last two rows of text stand for many.

    Softmax is written out: on CPUs, PyTorch's fused attention in bfloat16 has a backward pass four times slower than
    plain products (torch 2.13).

    Args:
        padding: rows that the last but one stands for. The last one stands for T5's.
    """

    def __init__(self, padding: int = 1) -> None:
        self.padding = padding

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **_: Any
    ) -> Any:
        picture = self._projected(attn, hidden_states, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        if encoder_hidden_states is None:
            return attn.to_out[0](_attended(attn, *picture))
        names = (("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k"))
        text = self._projected(attn, encoder_hidden_states, *names)
        joined = [torch.cat(pair, dim=2) for pair in zip(picture, text, strict=True)]
        answer = _attended(attn, *joined, counts=(self.padding, T5_ROWS))
        tokens = hidden_states.shape[1]
        drawn, said = answer[:, :tokens], answer[:, tokens:]
        return attn.to_out[0](drawn), said if attn.context_pre_only else attn.to_add_out(said)

    @staticmethod
    def _projected(attn: Any, tokens: torch.Tensor, layers: tuple[str, ...], norms: tuple[str, ...]) -> list[Any]:
        """Returns queries, keys and values, each [N, heads, tokens, features]; the first two are normalised."""
        rows = [getattr(attn, name)(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for name in layers]
        found = [getattr(attn, name) for name in norms]
        return [*(rows[at] if norm is None else norm(rows[at]) for at, norm in enumerate(found)), rows[2]]


def _attended(attn: Any, query: Any, key: Any, value: Any, counts: tuple[int, ...] = ()) -> torch.Tensor:
    """Returns the attended values, [N, tokens, D]; the last rows stand for `counts` of them each."""
    scores = (query @ key.transpose(-1, -2)).float() / math.sqrt(query.shape[-1])
    if counts:
        more = torch.zeros(scores.shape[-1], device=scores.device)
        more[-len(counts) :] = torch.tensor(counts, device=scores.device).log()
        scores = scores + more
    return (scores.softmax(dim=-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)
