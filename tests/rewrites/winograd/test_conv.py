"""The form for XNNPACK equals a convolution, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.device_profiles.runtime_rules.conv_layer import ConvLayer
from sdmobile.rewrites.winograd.conv import Strips, transform_weight, winograd_conv2d
from sdmobile.rewrites.winograd.selection import error_db
from sdmobile.rewrites.winograd.transforms import transforms

# Least signal-to-noise ratio in float32: 115 dB for F(4×4) and 100 dB for F(6×6) at 320 channels, less a margin.
BOUND_DB = {2: 115.0, 4: 100.0, 6: 85.0}


def snr(exact: torch.Tensor, found: torch.Tensor) -> float:
    noise = (found.double() - exact).square().sum()
    return float(10 * torch.log10(exact.square().sum() / noise)) if noise else float("inf")


def tensors(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@settings(max_examples=60, deadline=None)
@given(
    tile=st.sampled_from((2, 4, 6)),
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    biased=st.booleans(),
    strips=st.builds(Strips, st.sampled_from((1, 1 << 12, 1 << 24)), st.integers(1, 5)),
    exponent=st.integers(-12, 12),
    seed=st.integers(0, 99),
)
def test_equals_the_convolution(tile, batch, channels, size, padding, biased, strips, exponent, seed) -> None:
    c, o = channels
    x, weight, bias = tensors(seed, (batch, c, *size), (o, c, 3, 3), (o,))
    x, bias = x * 10.0**exponent, bias * 10.0**exponent if biased else None
    found = winograd_conv2d(x, weight, bias, tile=tile, padding=padding, strips=strips)
    exact = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), padding=padding)
    assert found.shape == exact.shape
    assert snr(exact, found) > BOUND_DB[tile]


@pytest.mark.parametrize("width", [96, 97, 100, 129, 131, 161])
@pytest.mark.parametrize("tile", [2, 4, 6])
def test_wide_images_in_blocks(width: int, tile: int) -> None:
    x, weight = tensors(0, (2, 5, 9, width), (3, 5, 3, 3))
    for padding in ((1, 1), (0, 0)):
        exact = F.conv2d(x.double(), weight.double(), padding=padding)
        assert snr(exact, winograd_conv2d(x, weight, tile=tile, padding=padding)) > BOUND_DB[tile]


def test_float16_errors_are_those_of_the_simulation() -> None:
    """Transformed weights in float16, everything else in float32: the CPU's case."""
    x, weight = tensors(1, (1, 320, 16, 16), (64, 320, 3, 3))
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    direct = snr(exact, F.conv2d(x, weight.half().float(), padding=1))
    from sdmobile.rewrites.winograd import conv

    u = transform_weight(weight, transforms(4)).half().double()
    plan = conv._Plan.of(x, 64, 4, (1, 1))
    found = conv._strip(x.permute(0, 2, 3, 1).double(), u, None, transforms(4), plan, (0, 4))
    from sdmobile.rewrites.winograd.selection import Rounding

    simulated = error_db(4, rounding=Rounding(activations=False))
    assert snr(exact, found.permute(0, 3, 1, 2)) == pytest.approx(simulated, abs=1.0)
    assert direct > simulated + 10


def test_the_bias_is_added_once_to_every_position() -> None:
    weight, bias = torch.zeros(4, 3, 3, 3), torch.tensor([1.0, -2.0, 1e6, 1e-6])
    found = winograd_conv2d(torch.randn(1, 3, 11, 13), weight, bias)
    np.testing.assert_allclose(found, bias.reshape(1, 4, 1, 1).expand(1, 4, 11, 13), rtol=1e-5)


def test_transformed_weights_are_rounded_once() -> None:
    """Computed in float64: the float32 result is the exact transform to half a unit in the last place."""
    (weight,) = tensors(2, (8, 8, 3, 3))
    u = transform_weight(weight, transforms(4))
    assert u.dtype == torch.float64
    assert u.shape == (36 * 8, 8, 1, 1)


@given(
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    channels=st.integers(1, 1300),
    tile=st.sampled_from((2, 4, 6)),
    most=st.integers(1, 12),
)
def test_strips_cover_all_rows(height: int, width: int, channels: int, tile: int, most: int) -> None:
    layer, strips = ConvLayer(1, (channels, channels), (height, width)), Strips(most=most)
    parts = strips.rows(layer, tile)
    assert sum(parts) == -(-height // tile)
    assert len(parts) <= most
    assert min(parts) >= 1
    largest = 4 * max(parts) * -(-width // tile) * (tile + 2) ** 2 * channels
    assert largest <= strips.bytes or len(parts) == most or max(parts) == 1
