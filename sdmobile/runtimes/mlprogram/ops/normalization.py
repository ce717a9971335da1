"""Normalisations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.runtimes.mlprogram.ops.registry import op


@op()
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """γ·(x − mean)/√(variance + ε) + β with given statistics per channel (axis 1)."""
    return F.batch_norm(x, mean, variance, gamma, beta, training=False, eps=epsilon)


@op()
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """γ·(x − E[x])/√(Var[x] + ε) + β with statistics over the axes from 2 on, per sample and channel."""
    return F.instance_norm(x, weight=gamma, bias=beta, eps=epsilon)


@op()
def layer_norm(
    x: Tensor,
    axes: list[int] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """γ·(x − E[x])/√(Var[x] + ε) + β with statistics over `axes`; γ and β have the sizes of those axes."""
    rank = x.dim()
    dims = sorted(axis % rank for axis in (range(rank) if axes is None else axes))
    if dims == list(range(rank - len(dims), rank)):
        return F.layer_norm(x, x.shape[rank - len(dims) :], gamma, beta, epsilon)
    centred = x - x.mean(dims, keepdim=True)
    y = centred / torch.sqrt(centred.square().mean(dims, keepdim=True) + epsilon)
    shape = [x.shape[i] if i in dims else 1 for i in range(rank)]
    if gamma is not None:
        y = y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


@op()
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """x / √(Σ x² + ε) over the last three axes."""
    return x / torch.sqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


@op()
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x / (k + α/size · Σ x²)^β, summed over `size` channels (axis 1) around each; one more below if even."""
    return F.local_response_norm(x, size, alpha, beta, k)
