"""Which layers are chosen, within what budget, and how good the prediction of time is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.device_profiles.runtime_rules.conv_layer import ConvLayer
from sdmobile.rewrites.winograd.selection import CpuTime, Policy, answers, choose
from tests.rewrites.winograd.layers import sd15_unet, sd_decoder

_layers = st.builds(
    lambda c, o, s: ConvLayer(1, (c, o), (s, s)),
    st.sampled_from((4, 64, 320, 640)),
    st.sampled_from((4, 64, 320, 1280)),
    st.sampled_from((8, 16, 33, 64)),
)


def grown(layers: list[ConvLayer], tiles: list[int | None]) -> int:
    """Returns the weights that the chosen tiles add in memory: once per strip."""
    chosen = [(layer, tile) for layer, tile in zip(layers, tiles, strict=True) if tile is not None]
    return sum(36 * _pairs(a) * _strips(a, t) if t == 4 else 16 * _pairs(a) * _strips(a, t) for a, t in chosen) - sum(
        9 * _pairs(layer) for layer, _ in chosen
    )


def _pairs(layer: ConvLayer) -> int:
    return layer.channels[0] * layer.channels[1]


def _strips(layer: ConvLayer, tile: int) -> int:
    return len(Policy().strips.rows(layer, tile))


@settings(max_examples=60, deadline=None)
@given(st.lists(_layers, max_size=8), st.floats(0, 5))
def test_the_budget_holds(layers: list[ConvLayer], growth: float) -> None:
    weights = sum(layer.weights for layer in layers)
    policy = Policy(weight_growth=growth, spare_bytes=0)
    tiles = choose(layers, weights, policy)
    assert grown(layers, tiles) <= growth * weights
    for layer, tile in zip(layers, tiles, strict=True):
        assert tile is None or policy.time.milliseconds(layer, tile) * 1.25 <= policy.time.milliseconds(layer, None)


def test_without_a_budget_nothing_is_chosen_and_with_an_endless_one_the_fastest() -> None:
    layers = [ConvLayer(1, (320, 320), (64, 64)), ConvLayer(1, (4, 320), (64, 64))]
    assert choose(layers, 10**9, Policy(weight_growth=0, spare_bytes=0)) == [None, None]
    assert choose(layers, 10**9, Policy()) == [4, None]


def test_a_small_budget_takes_the_cheaper_tile() -> None:
    layer = ConvLayer(1, (320, 320), (64, 64))
    assert choose([layer], layer.weights, Policy(weight_growth=1.0, spare_bytes=0)) == [2]
    assert choose([layer], layer.weights, Policy(weight_growth=3.0)) == [4]


def test_sd15_unet_grows_by_a_quarter_at_most() -> None:
    layers, weights = sd15_unet(512, 2)
    tiles = choose(layers, weights, Policy())
    assert grown(list(layers), tiles) <= 0.25 * weights
    high = [t for layer, t in zip(layers, tiles, strict=True) if layer.size == (64, 64) and layer.kernel == (3, 3)]
    assert len([tile for tile in high if tile is not None]) == 11  # all but conv_in and conv_out
    assert {t for layer, t in zip(layers, tiles, strict=True) if layer.stride != (1, 1)} == {None}


def test_a_small_component_may_grow_by_the_spare_bytes() -> None:
    layers, weights = sd_decoder(512)
    tiles = choose(layers, weights, Policy())
    assert sum(tile is not None for tile in tiles) >= 10
    assert 0.5 * Policy().spare_bytes < 4 * grown(list(layers), tiles) <= Policy().spare_bytes


# Milliseconds of CONV_2D and F(4×4), one thread, from the table in docs/winograd.md.
MEASURED = {
    (320, 320, 64): (72.5, 30.8),
    (640, 640, 32): (72.3, 24.6),
    (512, 512, 64): (183.5, 72.9),
    (256, 256, 256): (734.4, 384.1),
    (128, 128, 512): (742.6, 669.8),
}


@pytest.mark.parametrize(("sizes", "times"), MEASURED.items())
def test_the_prediction_is_near_the_measurement(sizes: tuple[int, int, int], times: tuple[float, float]) -> None:
    layer = ConvLayer(1, sizes[:2], (sizes[2], sizes[2]))
    found = [CpuTime().milliseconds(layer, tile) for tile in (None, 4)]
    assert found == pytest.approx(times, rel=0.15)


def test_layers_that_gain_little_when_measured_are_refused() -> None:
    assert Policy().objection(ConvLayer(1, (128, 128), (512, 512))) is not None
    assert Policy().objection(ConvLayer(1, (64, 64), (64, 64))) is not None
    assert Policy().objection(ConvLayer(1, (256, 256), (256, 256))) is None


def test_three_answers() -> None:
    found = answers(ConvLayer(1, (320, 320), (64, 64)), 4)
    assert found.chosen_by_runtime["ml-drift/adreno7xx"]
    assert not answers(ConvLayer(1, (640, 640), (32, 32)), 4).chosen_by_runtime["ml-drift/adreno7xx"]
    assert found.float16_db == pytest.approx(54.8, abs=0.5)
    assert found.direct_macs == 9 * 320 * 320 * 64 * 64
    assert found.winograd_macs * 4 == found.direct_macs
    assert found.winograd_weight_bytes == 4 * found.weight_bytes == 4 * 36 * 320 * 320
    assert found.direct_ms > 2 * found.winograd_ms
