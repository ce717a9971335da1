"""Layers on arrays: PyTorch's values, whichever way a convolution takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from sdmobile.families import array_layers
from sdmobile.families.array_layers import attention, convolve, doubled, largest_magnitude, normaliser

Map = np.ndarray


def channels_last(x: torch.Tensor) -> Map:
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())


def differs(found: Map, expected: torch.Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    return float(np.abs(found - channels_last(expected)).max() / expected.abs().max())


# Widths and sizes on both sides of where a convolution takes another way; sides that no tile of 4×4 fills.
@pytest.mark.parametrize(
    ("count", "rows", "columns", "inputs", "outputs"),
    [
        (1, 8, 8, 3, 32),
        (2, 7, 10, 32, 48),
        (1, 40, 40, 32, 16),
        (2, 33, 29, 16, 24),
        (1, 130, 18, 64, 20),
        (1, 1, 700, 16, 16),
    ],
)
def test_a_convolution_is_pytorchs(count: int, rows: int, columns: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(count, inputs, rows, columns), torch.randn(outputs, inputs, 3, 3)
    bias = torch.randn(outputs)
    found = convolve(channels_last(x), weight.numpy(), bias.numpy())
    assert differs(found, functional.conv2d(x, weight, bias, padding=1)) < 2e-5
    point = convolve(channels_last(x), weight[:, :, :1, :1].numpy(), bias.numpy())
    assert differs(point, functional.conv2d(x, weight[:, :, :1, :1], bias)) < 2e-6


@pytest.mark.parametrize("sides", [(8, 8), (6, 70), (90, 34)])
def test_a_convolution_halves_a_map_with_zeros_below_and_to_the_right(sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 16, *sides), torch.randn(24, 16, 3, 3), torch.randn(24)
    expected = functional.conv2d(functional.pad(x, (0, 1, 0, 1)), weight, bias, stride=2)
    assert differs(convolve(channels_last(x), weight.numpy(), bias.numpy(), stride=2), expected) < 2e-6


def test_both_ways_of_a_convolution_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for name in ("_by_tiles", "_by_windows"):
        monkeypatch.setattr(array_layers, name, lambda *arguments, name=name: taken.append(name))
    weight = np.zeros((16, 16, 3, 3), np.float32)
    for side in (8, 64):
        convolve(np.zeros((1, side, side, 16), np.float32), weight, weight[:, 0, 0, 0])
    assert taken == ["_by_windows", "_by_tiles"]


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_a_norm_before_a_convolution_is_pytorchs(silu: bool, offset: float) -> None:
    torch.manual_seed(0)
    x, kernel = torch.randn(2, 32, 44, 40) * 3 + offset, torch.randn(16, 32, 3, 3)
    weight, bias, zeros = torch.randn(32), torch.randn(32), torch.zeros(16)
    normed = functional.group_norm(x, 8, weight, bias, 1e-6)
    expected = functional.conv2d(functional.silu(normed) if silu else normed, kernel, zeros, padding=1)
    before = normaliser(channels_last(x), 8, weight.numpy(), bias.numpy(), 1e-6, silu)
    assert differs(convolve(channels_last(x), kernel.numpy(), zeros.numpy(), before=before), expected) < 3e-5


def test_moments_of_a_large_map_keep_their_digits() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((1, 256, 256, 4), np.float32) + np.float32(100.0)
    mean, variance = array_layers._moments(x, 2)
    wide = x.astype(np.float64).reshape(-1, 2, 2)
    np.testing.assert_allclose(mean[0], wide.mean(axis=(0, 2)).repeat(2), rtol=1e-7)
    np.testing.assert_allclose(variance[0], wide.var(axis=(0, 2)).repeat(2), rtol=1e-5)


def test_attention_and_upsampling_are_pytorchs() -> None:
    torch.manual_seed(0)
    query, key, value = (5 * torch.randn(2, 30, 16) for _ in range(3))
    expected = functional.scaled_dot_product_attention(query, key, value)
    found = attention(query.numpy().copy(), key.numpy().copy(), value.numpy().copy())
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    x = torch.randn(2, 3, 5, 4)
    assert differs(doubled(channels_last(x)), functional.interpolate(x, scale_factor=2.0)) == 0


def test_what_is_no_number_is_infinite() -> None:
    x = np.array([[1.0, -3.0, 2.0]], np.float32)
    assert largest_magnitude(x) == 3.0
    for bad in (math.nan, math.inf, -math.inf):
        x[0, 0] = bad
        assert largest_magnitude(x) == math.inf
