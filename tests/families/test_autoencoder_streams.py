"""Scaled streams: the same network bit for bit, whatever the exponents."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.families.autoencoder import DECODER, ENCODER
from sdmobile.families.streams import (
    Streams,
    epsilon_factors,
    observe,
    rescale,
    rescaled,
    weight_factors,
)

if TYPE_CHECKING:
    from torch import nn

    from sdmobile.families.component import Component

SIDE = 16
HALVES = {"decoder": DECODER, "encoder": ENCODER}


@cache
def autoencoder(widths: tuple[int, ...], layers: int, attention: bool, quant: bool) -> Any:
    """A random AutoencoderKL; the wrapped halves that are changed are copies."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    levels = len(widths)
    config = {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": list(widths),
        "layers_per_block": layers,
        "norm_num_groups": 4,
        "mid_block_add_attention": attention,
        "use_quant_conv": quant,
        "use_post_quant_conv": quant,
    }
    model: Any = AutoencoderKL.from_config(config)
    return model.eval()


def half_of(model: nn.Module, part: Component, channels_last: bool = False) -> nn.Module:
    from copy import deepcopy

    return part.wrap(deepcopy(model), channels_last).eval()


def inputs_of(part: Component, levels: int) -> torch.Tensor:
    torch.manual_seed(1)
    side = SIDE >> (levels - 1)
    return torch.randn(1, 4, side, side) if part is DECODER else torch.rand(1, 3, SIDE, SIDE) * 2 - 1


@pytest.mark.parametrize("part", HALVES.values(), ids=HALVES)
@given(
    widths=st.sampled_from([(8,), (8, 8), (8, 16), (8, 16, 16)]),
    layers=st.integers(1, 2),
    attention=st.booleans(),
    quant=st.booleans(),
    exponents=st.lists(st.integers(-12, 24), min_size=1, max_size=30),
)
@settings(max_examples=12, deadline=None)
def test_any_scales_give_the_same_output_bit_for_bit(
    part: Component, widths: tuple[int, ...], layers: int, attention: bool, quant: bool, exponents: list[int]
) -> None:
    module = half_of(autoencoder(widths, layers, attention, quant), part)
    streams = part.streams(module)
    chosen = {name: exponents[index % len(exponents)] for index, name in enumerate(streams.names)}
    calls = [(inputs_of(part, len(widths)),)]
    largest, (before,) = observe(module, streams, calls)
    rescale(module, streams, chosen)
    scaled, (after,) = observe(module, streams, calls)
    assert torch.equal(before, after)
    assert scaled == {name: value * 2.0 ** -chosen[name] for name, value in largest.items()}


@pytest.mark.parametrize("part", HALVES.values(), ids=HALVES)
def test_every_norm_and_every_layer_before_one_is_in_a_stream(part: Component) -> None:
    module = half_of(autoencoder((8, 16, 16), 2, True, True), part)
    streams = part.streams(module)
    norms = {name for name, one in module.named_modules() if isinstance(one, torch.nn.GroupNorm)}
    layers = {name for name, one in module.named_modules() if isinstance(one, torch.nn.Conv2d | torch.nn.Linear)}
    free = {name for name in layers if name.rpartition(".")[2] in ("to_q", "to_k", "to_v", "conv_out")}
    assert set(streams.norms) == norms
    assert set(streams.layers) == layers - free - {"post_quant_conv", "quant_conv"}


def test_a_tensor_is_changed_by_a_power_of_two_alone() -> None:
    module = half_of(autoencoder((8, 16), 1, True, True), DECODER)
    streams = DECODER.streams(module)
    before = {name: value.clone() for name, value in module.named_parameters()}
    rescale(module, streams, {"decoder.conv_in": 5})
    changed = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
    for name in changed:
        ratio = dict(module.named_parameters())[name] / before[name]
        assert ratio[before[name] != 0].unique().tolist() in ([2.0**-5], [2.0**5])
    assert {"decoder.conv_in.bias", "decoder.mid_block.attentions.0.to_out.0.weight"} <= changed
    # The next stream is not scaled: what copies this one into it scales back, and keeps its bias.
    assert "decoder.up_blocks.0.upsamplers.0.conv.weight" in changed
    assert "decoder.up_blocks.0.upsamplers.0.conv.bias" not in changed
    assert not any("to_q" in name or "norm" in name or "up_blocks.1" in name for name in changed)


@pytest.mark.parametrize("part", HALVES.values(), ids=HALVES)
@given(exponents=st.lists(st.integers(-12, 24), min_size=1, max_size=30))
@settings(max_examples=8, deadline=None)
def test_arrays_are_scaled_as_a_module_is_bit_for_bit(part: Component, exponents: list[int]) -> None:
    module = half_of(autoencoder((8, 16, 16), 2, True, True), part)
    streams = part.streams(module)
    chosen = {name: exponents[index % len(exponents)] for index, name in enumerate(streams.names)}
    arrays = {name: value.detach().numpy().copy() for name, value in module.named_parameters()}
    epsilons = {name: one.eps for name, one in module.named_modules() if isinstance(one, torch.nn.GroupNorm)}
    rescale(module, streams, chosen)

    factors, smaller = weight_factors(streams, chosen), epsilon_factors(streams, chosen)
    for name, value in module.named_parameters():
        scaled = rescaled(name, arrays[name], factors)
        assert scaled.dtype == np.float32
        assert scaled.tobytes() == value.detach().numpy().tobytes(), name
    for name, eps in epsilons.items():
        norm: Any = module.get_submodule(name)
        assert norm.eps == eps * smaller.get(name, 1.0)


def test_what_is_not_scaled_has_no_factor() -> None:
    streams = DECODER.streams(half_of(autoencoder((8, 16), 1, True, True), DECODER))
    assert weight_factors(streams, {}) == {}
    assert epsilon_factors(streams, dict.fromkeys(streams.names, 0)) == {}
    weight = np.ones(3, np.float32)
    assert rescaled("decoder.conv_in.bias", weight, {}) is weight
    all_alike = weight_factors(streams, dict.fromkeys(streams.names, 3))
    assert "decoder.conv_in.weight" in all_alike
    assert "decoder.up_blocks.0.upsamplers.0.conv.weight" not in all_alike  # it copies one into the other
    assert all_alike["decoder.up_blocks.0.upsamplers.0.conv.bias"] == 2.0**-3


def test_nothing_is_said_of_another_network() -> None:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    tiny = AutoencoderTiny(encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8))
    assert DECODER.streams(half_of(tiny, DECODER)) == Streams()
    changed: Any = half_of(autoencoder((8, 16), 1, True, True), DECODER)
    changed.decoder.mid_block = torch.nn.Conv2d(16, 16, 1)
    assert DECODER.streams(changed) == Streams()


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("decoder.mid_block.resnets.0", {"nonlinearity": torch.nn.Mish()}),
        ("decoder.mid_block.resnets.1", {"output_scale_factor": 2.0}),
        ("decoder.up_blocks.1.resnets.0", {"time_embedding_norm": "scale_shift"}),
        ("decoder.up_blocks.0.resnets.0", {"norm1": torch.nn.BatchNorm2d(16)}),
        ("decoder.mid_block.attentions.0", {"residual_connection": False}),
        ("decoder.mid_block.attentions.0", {"heads": 2}),
        ("decoder", {"conv_act": torch.nn.ReLU()}),
    ],
    ids=str,
)
def test_nothing_is_said_of_a_block_that_computes_something_else(path: str, change: dict[str, Any]) -> None:
    module = half_of(autoencoder((8, 16), 1, True, True), DECODER)
    for name, value in change.items():
        setattr(module.get_submodule(path), name, value)
    assert DECODER.streams(module) == Streams()
