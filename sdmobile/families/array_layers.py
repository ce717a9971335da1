"""Layers of convolutional networks on NumPy arrays: what of a network has to be known before PyTorch is at hand.

Feature maps are float32 and lie channels-last, (N, H, W, C); weights lie as PyTorch's do. Layers go over a map by
blocks of rows, which fit a core's cache, and what a norm and its activation make of a block is computed on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Before = Callable[[Array], Array]
    """Computes what a layer reads from rows of a feature map, (N, rows, W, C)."""

_NARROW = 16  # fewer channels are not worth a transform of the map,
_FEW = 512  # and fewer pixels none of the weight
_TILES = 256  # computed at once: few enough for a core's cache, enough for matrix products
_PIXELS = 2048
_ROWS = 8

# Winograd's F(4×4, 3×3), with the points 0, ±1, ±2 and infinity: Lavin and Gray, arXiv 1509.09308.
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def convolve(x: Array, weight: Array, bias: Array, stride: int = 1, before: Before | None = None) -> Array:
    """Returns a convolution of a feature map.

    Args:
        x: (N, H, W, C).
        weight: (O, C, 3, 3) or (O, C, 1, 1).
        bias: (O,).
        stride: 1, with zeros all around; or 2, with zeros below and to the right only.
        before: computes its input from `x`.

    Returns:
        (N, H / stride, W / stride, O).
    """
    if weight.shape[2:] == (1, 1):
        return linear(x if before is None else before(x), weight[:, :, 0, 0], bias)
    if stride == 1 and min(weight.shape[:2]) >= _NARROW and math.prod(x.shape[:3]) > _FEW:
        return _by_tiles(x, weight, bias, before)
    return _by_windows(x, weight, bias, stride, before)


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """Returns x·Wᵀ + b over the last axis, (…, O) of (…, C)."""
    y = x.reshape(-1, x.shape[-1]) @ weight.T
    y += bias
    return y.reshape(*x.shape[:-1], len(weight))


def normaliser(x: Array, groups: int, weight: Array, bias: Array, eps: float, silu: bool) -> Before:
    """Returns what GroupNorm(x), or SiLU(GroupNorm(x)), makes of rows of x; the moments are those of the whole map.

        SiLU(2h) = h·(1 + tanh h)

    Args:
        x: (N, H, W, C).
        groups: of channels.
        weight, bias: (C,).
        eps: added to the variance.
        silu: whether SiLU follows.
    """
    mean, variance = _moments(x, groups)
    scale = weight / np.sqrt(variance + eps)
    shift = bias - mean * scale
    scale, shift = ((part * (0.5 if silu else 1.0)).astype(np.float32)[:, None, None] for part in (scale, shift))

    def normalised(rows: Array) -> Array:
        h = rows * scale
        h += shift
        if silu:
            gate = np.tanh(h)
            gate += 1.0
            h *= gate
        return h

    return normalised


def attention(query: Array, key: Array, value: Array) -> Array:
    """Returns softmax(q·kᵀ/√C)·v, one head, (N, S, C) of three (N, S, C)."""
    scores = query @ key.swapaxes(1, 2)
    scores *= np.float32(1.0 / math.sqrt(query.shape[-1]))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores @ value


def doubled(x: Array) -> Array:
    """Returns every pixel four times, (N, 2·H, 2·W, C)."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def largest_magnitude(x: Array) -> float:
    """Returns max |x|, infinite if not a number."""
    found = float(np.maximum(x.max(), -x.min()))
    return math.inf if math.isnan(found) else found


def _moments(x: Array, groups: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns mean and variance of each channel's group, (N, C); sums of rows in float32, further ones in float64."""
    count, height, width, channels = x.shape

    def over_groups(rows: Array) -> NDArray[np.float64]:
        sums = rows.sum(axis=1, dtype=np.float64).reshape(count, groups, channels // groups).mean(axis=2)
        return (sums / (height * width)).repeat(channels // groups, axis=1)

    mean = over_groups(x.sum(axis=2))
    centre, squares = mean.astype(np.float32)[:, None, None], np.empty((count, height, channels), np.float32)
    for top in range(0, height, _ROWS):
        block = x[:, top : top + _ROWS] - centre
        np.multiply(block, block, out=block)
        np.sum(block, axis=2, out=squares[:, top : top + _ROWS])
    return mean, over_groups(squares)


def _block(x: Array, top: int, left: int, shape: tuple[int, int], before: Before | None) -> Array:
    """Returns a window of a layer's input, with zeros where it lies outside of the map."""
    count, height, width, channels = x.shape
    block = np.zeros((count, *shape, channels), np.float32)
    first, last = max(top, 0), min(top + shape[0], height)
    rows = x[:, first:last]
    block[:, first - top : last - top, left : left + width] = rows if before is None else before(rows)
    return block


def _by_windows(x: Array, weight: Array, bias: Array, stride: int, before: Before | None) -> Array:
    """Computes a 3×3 convolution as one product of all windows of some rows with its weight."""
    count, height, width, channels = x.shape
    high, wide, edge = height // stride, width // stride, 2 - stride
    kernel = weight.transpose(0, 2, 3, 1).reshape(len(bias), 9 * channels)
    rows = max(1, _PIXELS // (count * wide))
    out = np.empty((count, high, wide, len(bias)), np.float32)
    for top in range(0, high, rows):
        here = min(rows, high - top)
        block = _block(x, stride * top - edge, edge, (stride * here + 2, stride * wide + 2), before)
        places = [(i, j) for i in range(3) for j in range(3)]
        windows = [block[:, i : i + stride * here : stride, j : j + stride * wide : stride] for i, j in places]
        out[:, top : top + here] = linear(np.concatenate(windows, axis=3), kernel, bias)
    return out


def _by_tiles(x: Array, weight: Array, bias: Array, before: Before | None) -> Array:
    """Computes a 3×3 convolution of stride 1 by Winograd's algorithm, a fourth of the multiplications.

    Y = Aᵀ[(G·g·Gᵀ) ⊙ (Bᵀ·d·B)]A        d: 6×6 pixels, Y: the 4×4 in their middle
    """
    count, height, width, channels = x.shape
    high, wide, outputs = -(-height // 4), -(-width // 4), len(bias)
    rows = max(1, min(high, _TILES // (count * wide)))
    tiles = count * rows * wide
    kernel = _both_axes(_KERNEL) @ weight.reshape(-1, 9).T
    kernel = kernel.reshape(36, outputs, channels).swapaxes(1, 2)
    into, back = _both_axes(_INPUT), _both_axes(_OUTPUT)
    pixels: Any = np.empty((6, 6, count, rows, wide, channels), np.float32)
    taken, product = np.empty((36, tiles * channels), np.float32), np.empty((36, tiles, outputs), np.float32)
    out = np.empty((count, -(-high // rows) * rows, 4, wide, 4, outputs), np.float32)
    for top in range(0, high, rows):
        block = _block(x, 4 * top - 1, 1, (4 * rows + 2, 4 * wide + 2), before)
        for i in range(6):
            for j in range(6):
                pixels[i, j] = block[:, i : i + 4 * rows - 3 : 4, j : j + 4 * wide - 3 : 4]
        np.matmul(into, pixels.reshape(36, -1), out=taken)
        np.matmul(taken.reshape(36, tiles, channels), kernel, out=product)
        result = (back @ product.reshape(36, -1)).reshape(4, 4, count, rows, wide, outputs)
        result += bias
        out[:, top : top + rows] = result.transpose(2, 3, 0, 4, 1, 5)
    padded = out.reshape(count, -1, 4 * wide, outputs)
    return np.ascontiguousarray(padded[:, :height, :width])


def _both_axes(rows: tuple[tuple[float, ...], ...]) -> Array:
    """Returns the matrix that applies another along both axes of a flattened tile."""
    matrix = np.array(rows, np.float64)
    return np.kron(matrix, matrix).astype(np.float32)
