"""Layers of a program, ranges against numpy, decisions on a layer with outliers, simulation against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdmobile.basics.metrics import psnr
from sdmobile.quantize.activations.gate import Scales, calibrate, jointly, judge, most, scales_of, sharing
from sdmobile.quantize.activations.layers import Layer, find_layers
from sdmobile.quantize.activations.ranges import METHODS, Method
from sdmobile.quantize.activations.simulate import Simulation, fake_quantized, rounded_weight
from sdmobile.quantize.recipes import Override, Recipe
from sdmobile.quantize.schemes import W8A8, Float16, parse_scheme
from tests.quantize.activations.conftest import Block, calls

RECIPE = Recipe("all", W8A8(), min_elements=64)


def _by_name(layers: tuple[Layer, ...]) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers}


def test_layers_of_a_program(package: Path) -> None:
    layers = find_layers(package, RECIPE, "unet")
    kinds = [(layer.name, layer.kind, len(layer.operations)) for layer in layers]
    convolutions = [(name, "convolution", 1) for name in ("first", "second", "qkv", "last")]
    assert [kind for kind in kinds if kind[1] == "convolution"] == convolutions
    attention = next(layer for layer in layers if layer.kind == "attention")
    assert attention.name == "mixer"
    assert len(attention.operations) == 2
    assert len(attention.activations) == 4
    assert not attention.weights
    found = _by_name(layers)
    assert found["first"].activations == found["second"].activations
    groups = [[layer.name for layer in group] for group in sharing(layers)]
    assert ["first", "second"] in groups
    assert len(groups) == 4
    # Patterns decide, and small weights stay out.
    some = Recipe("some", W8A8(), (Override("qkv", Float16()), Override("last", parse_scheme("int8c"))), 1200)
    assert {layer.name for layer in find_layers(package, some, "unet")} == {attention.name}
    gates = Recipe("gates", W8A8(50.0, 20.0), min_elements=64)
    assert {layer.kind: layer.gate_db for layer in find_layers(package, gates, "unet")} == {
        "convolution": 50.0,
        "attention": 20.0,
    }


def test_ranges_are_those_of_numpy(package: Path, simulation: Simulation, block: Block) -> None:
    layers = _by_name(find_layers(package, RECIPE, "unet"))
    data = calls(0, 3)
    found = calibrate(simulation, data, tuple(layers.values()))
    (name,) = layers["first"].activations
    assert found[name].peak == max(float(np.abs(call["x"]).max()) for call in data)
    inputs: list[torch.Tensor] = []
    handle = block.last.register_forward_hook(lambda _, given, __: inputs.append(given[0]))
    with torch.no_grad():
        for call in data:
            block(torch.from_numpy(call["x"]))
    handle.remove()
    (name,) = layers["last"].activations
    assert found[name].peak == pytest.approx(float(torch.stack(inputs).abs().max()), rel=2e-3)
    assert found[name].counts.sum() == sum(each.numel() for each in inputs)


def test_rounding_is_that_of_the_operations() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 200.0, -200.0, 126.6])
    assert fake_quantized(x, 1.0).tolist() == [0.0, 2.0, 2.0, -0.0, -2.0, 127.0, -128.0, 127.0]
    assert fake_quantized(x, 0.5).tolist()[:3] == [0.5, 1.5, 2.5]
    weight = torch.tensor([[127.0, 0.4, -0.6, -127.0], [254.0, 1.0, 3.0, -2.0]])
    assert rounded_weight(weight).tolist() == [[127.0, 0.0, -1.0, -127.0], [254.0, 0.0, 4.0, -2.0]]


def test_a_quantised_layer_is_what_torch_computes(package: Path, simulation: Simulation, block: Block) -> None:
    layers = _by_name(find_layers(package, RECIPE, "unet"))
    call = calls(5, 1)[0]
    chosen = [layers["first"], layers["second"]]
    (name,) = layers["first"].activations
    scale = 0.03125
    found = simulation.outputs(call, chosen, {name: scale})
    copy = Block().eval()
    with torch.no_grad():
        copy.load_state_dict({key: value.half().float() for key, value in block.state_dict().items()})
        for module in (copy.first, copy.second):
            module.weight.copy_(rounded_weight(module.weight))
            module.register_forward_pre_hook(lambda _, given: (fake_quantized(given[0], scale),))
        expected = copy(torch.from_numpy(call["x"])).numpy().reshape(-1)
    assert psnr(expected, found) > 90
    assert psnr(expected, simulation.outputs(call, (), {})) < 60
    # One at a time from a shared exact run is the same as a run of its own.
    for layer, number, output in simulation.one_at_a_time(call, tuple(layers.values()), [{name: scale}, {name: 0.5}]):
        alone = simulation.outputs(call, [layer], {name: [scale, 0.5][number]})
        assert np.array_equal(output, alone)


def test_outliers_fail_the_gate(package: Path, simulation: Simulation) -> None:
    layers = find_layers(package, RECIPE, "unet")
    magnitudes = calibrate(simulation, calls(0, 4), layers)
    scales: dict[Method, Scales] = {method: scales_of(simulation, magnitudes, method) for method in METHODS}
    verdicts = {v.layer.name: v for v in judge(simulation, calls(1, 2), layers, scales)}
    # 4,000 times the other channels: in 127 steps of it nothing is left of them.
    assert verdicts["last"].psnr_db["max"] < 20
    assert not verdicts["last"].passed
    assert verdicts["last"].to_json()["decision"] == "w8"
    assert verdicts["qkv"].psnr_db[verdicts["qkv"].method] > 38
    assert verdicts["qkv"].passed
    assert verdicts["first"].method == verdicts["second"].method
    attention = next(v for v in verdicts.values() if v.layer.kind == "attention")
    assert attention.passed == (attention.psnr_db[attention.method] >= 26)
    # The figure of the table is that of the layer alone.
    data = calls(1, 2)
    alone = [
        psnr(
            simulation.outputs(call, (), {}),
            simulation.outputs(call, [verdicts["qkv"].layer], scales[verdicts["qkv"].method]),
        )
        for call in data
    ]
    assert verdicts["qkv"].psnr_db[verdicts["qkv"].method] == pytest.approx(min(alone))


def test_layers_are_dropped_until_the_sum_is_small_enough(package: Path, simulation: Simulation) -> None:
    layers = find_layers(package, RECIPE, "unet")
    magnitudes = calibrate(simulation, calls(0, 4), layers)
    scales: dict[Method, Scales] = {method: scales_of(simulation, magnitudes, method) for method in METHODS}
    data = calls(1, 2)
    alone = judge(simulation, data, layers, scales)
    passed = sorted((v for v in alone if v.passed), key=lambda v: v.psnr_db[v.method])
    assert len(passed) >= 2
    # A floor just above the weakest layer's own figure costs that layer, and what stays reaches the floor.
    floor = passed[0].psnr_db[passed[0].method] + 0.01
    kept = [v for v in jointly(simulation, data, alone, scales, floor) if v.passed]
    assert passed[0].layer not in [v.layer for v in kept]
    merged = {name: scales[v.method][name] for v in kept for name in v.layer.activations}
    for call in data:
        found = simulation.outputs(call, [v.layer for v in kept], merged)
        assert psnr(simulation.outputs(call, (), {}), found) >= floor
    assert jointly(simulation, data, alone, scales, 0.0) == alone


@given(st.integers(0, 50), st.integers(0, 50))
def test_the_largest_count_that_holds(limit: int, true_until: int) -> None:
    assert most(limit, lambda count: count <= true_until) == min(limit, true_until)
