"""Activation functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.runtimes.mlprogram.ops.registry import Context, op


@op()
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return F.relu(x)


@op()
def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6)."""
    return torch.clamp(x, 0, 6)


@op()
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """x where x ≥ 0, else α·x."""
    return F.leaky_relu(x, alpha)


@op()
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """x where x > 0, else αᵢ·x with one α per channel (axis 1)."""
    return torch.where(x > 0, x, x * alpha.reshape(1, -1, *[1] * (x.dim() - 2)))


@op()
def elu(x: Tensor, alpha: float) -> Tensor:
    """x where x > 0, else α·(eˣ − 1)."""
    return F.elu(x, alpha)


@op()
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(β, x) where x ≥ 0, else min(β, α·x)."""
    return torch.clamp(torch.where(x >= 0, x, alpha * x), max=beta)


@op()
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """x where x ≥ α, else 0."""
    return torch.where(x >= alpha, x, torch.zeros_like(x))


@op()
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """α·x + β."""
    return alpha * x + beta


@op()
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """α·tanh(β·x)."""
    return alpha * torch.tanh(beta * x)


@op()
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ)."""
    return torch.sigmoid(x)


@op()
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(max(α·x + β, 0), 1)."""
    return torch.clamp(alpha * x + beta, 0, 1)


@op()
def silu(x: Tensor) -> Tensor:
    """x / (1 + e⁻ˣ)."""
    return F.silu(x)


@op()
def softplus(x: Tensor) -> Tensor:
    """ln(1 + eˣ)."""
    return F.softplus(x)


@op()
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """αᵢ·ln(1 + e^(βᵢ·x)) with one α and β per channel (axis 1)."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    return alpha.reshape(shape) * F.softplus(x * beta.reshape(shape))


@op()
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return F.softsign(x)


@op()
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """eˣ / Σ eˣ along one axis."""
    return torch.softmax(x, axis)


@op()
def gelu(x: Tensor, context: Context, mode: str = "EXACT") -> Tensor:
    """½·x·(1 + erf(x/√2)), or its approximation by tanh or by x·sigmoid(1.702·x)."""
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise context.unsupported(f"mode {mode}")
