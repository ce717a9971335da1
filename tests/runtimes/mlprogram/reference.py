"""The written definitions of operations for which coremltools computes no value, in plain numpy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def conv(x: Array, weight: Array, strides: Sequence[int], pad: Sequence[int], dilations: Sequence[int], groups: int):
    """Sum over kernel positions of shifted inputs times weights, group by group."""
    spatial = x.ndim - 2
    x = np.pad(x, [(0, 0), (0, 0), *[(pad[2 * i], pad[2 * i + 1]) for i in range(spatial)]]).astype(np.float64)
    kernel = weight.shape[2:]
    size = [(x.shape[2 + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(spatial)]
    out = np.zeros((x.shape[0], weight.shape[0], *size))
    per_in, per_out = weight.shape[1], weight.shape[0] // groups
    for position in itertools.product(*map(range, kernel)):
        window = tuple(
            slice(p * d, p * d + s * (n - 1) + 1, s)
            for p, d, s, n in zip(position, dilations, strides, size, strict=True)
        )
        for g in range(groups):
            part = x[(slice(None), slice(g * per_in, (g + 1) * per_in), *window)]
            taps = weight[(slice(g * per_out, (g + 1) * per_out), slice(None), *position)]
            out[:, g * per_out : (g + 1) * per_out] += np.einsum("oc,nc...->no...", taps, part)
    return out


def conv_transpose(x: Array, weight: Array, strides: Sequence[int], pad: Sequence[int], dilations: Sequence[int]):
    """Each input element adds its multiple of the kernel to the output; then the padding is cut off."""
    spatial = x.ndim - 2
    kernel = weight.shape[2:]
    size = [(x.shape[2 + i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(spatial)]
    out = np.zeros((x.shape[0], weight.shape[1], *size))
    for position in itertools.product(*map(range, kernel)):
        window = tuple(
            slice(p * d, p * d + s * (n - 1) + 1, s)
            for p, d, s, n in zip(position, dilations, strides, x.shape[2:], strict=True)
        )
        taps = weight[(slice(None), slice(None), *position)]
        out[(slice(None), slice(None), *window)] += np.einsum("co,nc...->no...", taps, x.astype(np.float64))
    crop = tuple(slice(pad[2 * i], size[i] - pad[2 * i + 1]) for i in range(spatial))
    return out[(slice(None), slice(None), *crop)]


def pool(x: Array, kernel: Sequence[int], strides: Sequence[int], pad: Sequence[int], kind: str, exclude: bool = False):
    """Maximum or mean of each window of an image batch."""
    fill = -math.inf if kind == "max" else 0.0
    pads = [(0, 0), (0, 0), (pad[0], pad[1]), (pad[2], pad[3])]
    ones = np.pad(np.ones_like(x), pads)
    x = np.pad(x, pads, constant_values=fill)
    rows = (x.shape[2] - kernel[0]) // strides[0] + 1
    columns = (x.shape[3] - kernel[1]) // strides[1] + 1
    out = np.zeros((*x.shape[:2], rows, columns))
    for i, j in itertools.product(range(rows), range(columns)):
        window = (
            ...,
            slice(i * strides[0], i * strides[0] + kernel[0]),
            slice(j * strides[1], j * strides[1] + kernel[1]),
        )
        if kind == "max":
            out[:, :, i, j] = x[window].max((-2, -1))
        else:
            count = ones[window].sum((-2, -1)) if exclude else kernel[0] * kernel[1]
            out[:, :, i, j] = x[window].sum((-2, -1)) / count
    return out


def batch_norm(x: Array, mean: Array, variance: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    """γ(x − mean)/√(variance + ε) + β per channel."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    scale = gamma / np.sqrt(variance.astype(np.float64) + epsilon)
    return (x - mean.reshape(shape)) * scale.reshape(shape) + beta.reshape(shape)


def instance_norm(x: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    """γ(x − E[x])/√(Var[x] + ε) + β over the spatial axes."""
    axes = tuple(range(2, x.ndim))
    shape = (1, -1, *[1] * (x.ndim - 2))
    centred = x.astype(np.float64) - x.mean(axes, keepdims=True, dtype=np.float64)
    normal = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + epsilon)
    return normal * gamma.reshape(shape) + beta.reshape(shape)


def bilinear(x: Array, height: int, width: int, align_corners: bool) -> Array:
    """Linear interpolation at the grid points of the definition."""
    for axis, size in ((-2, height), (-1, width)):
        n = x.shape[axis]
        i = np.arange(size)
        points = i * ((n - 1) / (size - 1)) if align_corners else i * (n / size) + 0.5 * n / size - 0.5
        points = np.clip(points, 0, n - 1)
        low = np.floor(points).astype(int)
        high = np.minimum(low + 1, n - 1)
        shape = (-1, 1) if axis == -2 else (-1,)
        part = (points - low).reshape(shape)
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x


def pixel_shuffle(x: Array, f: int) -> Array:
    """[n, C·f², H, W] to [n, C, H·f, W·f]."""
    n, c, h, w = x.shape
    return x.reshape(n, c // f**2, f, f, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c // f**2, h * f, w * f)


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """softmax(q·kᵀ/√E + mask)·v."""
    score = q.astype(np.float64) @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    return softmax(score if mask is None else score + mask) @ v
