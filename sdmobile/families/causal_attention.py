"""What the layers of a language model share in a file: places that turn features, and who attends to whom.

A token attends to itself and to those before it that do not fill up the text. Heads that share keys and values are
neighbours, so that their queries are rows of one head: nothing is repeated, and four axes are enough.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sdmobile.families.t5_encoder import MASKED

Places = tuple[Tensor, Tensor]


def places(frequencies: Tensor, length: int) -> Places:
    """Returns cosine and sine of each place's turns, [L, d] each; the first half of a sine turns back.

    Args:
        frequencies: by which pairs turn, [d/2].
        length: L.
    """
    phases = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
    cosine, sine = torch.cos(phases), torch.sin(phases)
    return torch.cat([cosine, cosine], dim=1), torch.cat([-sine, sine], dim=1)


def turned(x: Tensor, at: Places) -> Tensor:
    """Returns features turned by their places, [1, H, L, d]: a pair is a feature of each half."""
    cosine, sine = at
    half = x.shape[-1] // 2
    return x * cosine + torch.cat([x[..., half:], x[..., :half]], dim=-1) * sine


def padding_table(words: int, pad: int) -> Tensor:
    """Returns −30000 for the token that fills up a text and 0 for every other, [words, 1]."""
    return MASKED * torch.eye(words, 1).roll(pad, 0)


def biases(ids: Tensor, padding: Tensor, sharing: int) -> Tensor:
    """Returns what is added to scores, −30000 for padding and for tokens behind the own, [1, 1, sharing·L, L].

    Made of the identifiers, so that it is no constant: an Android GPU does not repeat those for heads.

    Args:
        ids: of a text, [1, L].
        padding: of `padding_table`.
        sharing: heads that share keys and values.
    """
    length = ids.shape[1]
    behind = torch.from_numpy(np.triu(np.full((length, length), MASKED, dtype=np.float32), 1))
    bias = (behind + nn.functional.embedding(ids, padding).transpose(1, 2)).unsqueeze(1)
    return torch.cat([bias] * sharing, dim=2)


def heads(x: Tensor, width: int) -> Tensor:
    """Returns features by head, [1, H, L, d] of [1, L, H·d]."""
    return x.unflatten(2, (-1, width)).transpose(1, 2)


def as_rows(query: Tensor, key: Tensor) -> Tensor:
    """Returns queries as rows of the heads whose keys they share, [1, K, H/K·L, d] of [1, H, L, d].

    Args:
        query: [1, H, L, d].
        key: [1, K, L, d].
    """
    return query.reshape(1, key.shape[1], -1, query.shape[-1])


def as_tokens(rows: Tensor, length: int) -> Tensor:
    """Returns what rows of heads have become, by token, [1, L, H·d] of [1, K, H/K·L, d]."""
    return rows.reshape(1, -1, length, rows.shape[-1]).transpose(1, 2).flatten(2)
