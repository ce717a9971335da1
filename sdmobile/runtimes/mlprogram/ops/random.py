"""Random numbers: of the right distribution, as Core ML's own sequences are not published.

With a seed that is not negative an operation gives the same numbers at each run, else it continues PyTorch's sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdmobile.runtimes.mlprogram.ops.registry import Context, op


@op()
def random_bernoulli(shape: list[int], prob: float = 0.5, seed: int = -1) -> Tensor:
    """1 with a probability, else 0."""
    return (torch.rand(shape, generator=_generator(seed)) < prob).float()


@op()
def random_normal(shape: list[int], mean: float = 0.0, stddev: float = 1.0, seed: int = -1) -> Tensor:
    """mean + stddev·n, n of the standard normal distribution."""
    return mean + stddev * torch.randn(shape, generator=_generator(seed))


@op()
def random_uniform(shape: list[int], context: Context, low: float = 0.0, high: float = 1.0, seed: int = -1) -> Tensor:
    """Numbers of [low, high), or low if both are equal."""
    if high < low:
        raise context.unsupported(f"low {low} and high {high} (the result is undefined)")
    return low + (high - low) * torch.rand(shape, generator=_generator(seed))


@op()
def random_categorical(x: Tensor, context: Context, mode: str = "logits", size: int = 1, seed: int = -1) -> Tensor:
    """Indices drawn with the probabilities softmax(x) over the last axis, or x / Σ x in the mode "probs"."""
    if mode not in ("logits", "probs"):
        raise context.unsupported(f"mode {mode}")
    weights = torch.softmax(x.float(), -1) if mode == "logits" else x.float()
    drawn = torch.multinomial(weights.reshape(-1, x.shape[-1]), size, True, generator=_generator(seed))
    return drawn.reshape(*x.shape[:-1], size).float()


def _generator(seed: int) -> torch.Generator | None:
    return None if seed < 0 else torch.Generator().manual_seed(seed)
