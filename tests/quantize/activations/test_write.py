"""The written package: output of the simulation, structure and scales of coremltools' own pass, one pair per value."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdmobile.basics.metrics import psnr
from sdmobile.errors import ComponentError, UnsupportedError
from sdmobile.formats.mlprogram.read import read_program
from sdmobile.quantize.activations.apply import quantize_package
from sdmobile.quantize.activations.gate import calibrate
from sdmobile.quantize.activations.layers import find_layers, value_types
from sdmobile.quantize.activations.pairs import check_pairs, insert_pairs, pairs_of
from sdmobile.quantize.activations.ranges import scale_for
from sdmobile.quantize.activations.simulate import Simulation
from sdmobile.quantize.coreml.package import rewrite_weights
from sdmobile.quantize.recipes import Recipe
from sdmobile.quantize.schemes import W8A8
from sdmobile.runtimes.mlprogram import MLProgram
from tests.quantize.activations.conftest import calls

RECIPE = Recipe("all", W8A8(-99.0, -99.0, -99.0), min_elements=64)


def test_the_written_package_computes_what_was_simulated(package: Path, simulation: Simulation, tmp_path: Path) -> None:
    out = tmp_path / "block.mlpackage"
    record = quantize_package(package, out, RECIPE, "unet", calls(0, 3), calls(1, 2))
    found = (record.details or {})["activations"]
    assert {line["decision"] for line in found["layers"]} == {"w8a8"}
    assert record.schemes == {"w8a8": 4}
    assert record.checked == 4
    layers = find_layers(package, RECIPE, "unet")
    scales = pairs_of(read_program(out)[1])
    assert set(scales) == {name for layer in layers for name in layer.activations}
    assert found["pairs"] == len(scales) == 7
    counts = Counter(operation.type for operation in read_program(out)[1].operations)
    assert counts["quantize"] == counts["dequantize"] == 7
    assert counts["constexpr_affine_dequantize"] == 4
    program = MLProgram(out)
    for call, expected_db in zip(calls(1, 2), found["output_psnr_db"], strict=True):
        simulated = simulation.outputs(call, layers, scales)
        written = program.predict(call)["output"].reshape(-1)
        assert psnr(simulated, written) > 100
        exact = simulation.outputs(call, (), {})
        assert psnr(exact, written) == pytest.approx(expected_db, abs=0.02)
    # Rounded as a phone stores it, too.
    half = MLProgram(out, "float16-float32acc").predict(calls(1, 1)[0])["output"].reshape(-1)
    assert np.isfinite(half).all()


def test_only_what_passes_is_quantised(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "block.mlpackage"
    record = quantize_package(package, out, Recipe("r", W8A8(), min_elements=64), "unet", calls(0, 3), calls(1, 2))
    lines = {line["layer"]: line for line in (record.details or {})["activations"]["layers"]}
    assert lines["last"]["decision"] == "w8"
    assert record.schemes["int8c"] >= 1
    layers = {layer.name: layer for layer in find_layers(package, RECIPE, "unet")}
    quantized = pairs_of(read_program(out)[1])
    assert not set(layers["last"].activations) & set(quantized)
    for name, line in lines.items():
        assert (line["decision"] == "w8a8") == (set(layers[name].activations) <= set(quantized))


def test_coremltools_writes_the_same_from_the_same_ranges(
    package: Path, simulation: Simulation, tmp_path: Path
) -> None:
    """coremltools' calibration needs macOS; its pass takes the ranges as an option and runs anywhere."""
    ct: Any = import_module("coremltools")  # much of it has no types
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    layers = [layer for layer in find_layers(package, RECIPE, "unet") if layer.kind == "convolution"]
    magnitudes = calibrate(simulation, calls(0, 3), layers)
    # coremltools keeps ranges as float16, which every activation is.
    scales = {name: scale_for(float(np.float16(found.peak)), "float16") for name, found in magnitudes.items()}
    uses = {layer.operations[0]: {v: scales[v] for v in layer.activations} for layer in layers}
    out = tmp_path / "ours.mlpackage"
    rewrite_weights(package, out, {}, edit=lambda spec: insert_pairs(spec, uses))
    # The ranges as coremltools keeps them, here with both signs.
    stats = {n: {"rmin": np.float32(-m.peak), "rmax": np.float32(m.peak / 2)} for n, m in magnitudes.items()}
    config = ct.optimize.coreml.OptimizationConfig(
        op_type_configs={
            name: ct.optimize.coreml.OpLinearQuantizerConfig(mode="linear_symmetric") for name in ("conv", "linear")
        }
    )
    model = ct.models.MLModel(str(package), skip_model_load=True)
    program: Any = load(model.get_spec(), model.get_spec().specificationVersion, model.weights_dir)
    passed: Any = PASS_REGISTRY["compression::insert_prefix_quantize_dequantize_pair"]
    passed.config, passed.activation_stats = config, stats
    passed.apply(program)
    theirs = ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17, skip_model_load=True,
        pass_pipeline=ct.PassPipeline.EMPTY,
    )  # fmt: skip
    other = tmp_path / "theirs.mlpackage"
    theirs.save(str(other))
    ours, reference = read_program(out)[1], read_program(other)[1]
    assert pairs_of(ours) == pairs_of(reference)
    a, b = (next(op for op in p.operations if op.type == "quantize") for p in (ours, reference))
    assert (set(a.inputs), a.outputs[0].type.dtype) == (set(b.inputs), b.outputs[0].type.dtype)
    a, b = (next(op for op in p.operations if op.type == "dequantize") for p in (ours, reference))
    assert (set(a.inputs), a.outputs[0].type) == (set(b.inputs), b.outputs[0].type)
    # They write a pair for each user of a value, we one for all of them.
    counts = [Counter(op.type for op in p.operations) for p in (ours, reference)]
    assert counts[1]["quantize"] == len(layers)
    assert counts[0]["quantize"] == len(magnitudes) == len(layers) - 1
    call = calls(2, 1)[0]
    first, second = (MLProgram(path).predict(call)["output"] for path in (out, other))
    assert psnr(first, second) > 100


def test_coremltools_opens_it(package: Path, tmp_path: Path) -> None:
    ct: Any = import_module("coremltools")  # much of it has no types
    from coremltools.converters.mil.frontend.milproto.load import load

    out = tmp_path / "block.mlpackage"
    quantize_package(package, out, RECIPE, "unet", calls(0, 1), calls(1, 1))
    model = ct.models.MLModel(str(out), skip_model_load=True)
    program: Any = load(model.get_spec(), model.get_spec().specificationVersion, model.weights_dir)
    types = Counter(op.op_type for op in program.functions["main"].operations)
    assert types["quantize"] == types["dequantize"] == 7


def test_refusals(package: Path, simulation: Simulation, tmp_path: Path) -> None:
    (value,) = next(layer.activations for layer in find_layers(package, RECIPE, "unet") if layer.name == "first")
    users = [layer.operations[0] for layer in find_layers(package, RECIPE, "unet") if value in layer.activations]
    out = tmp_path / "x.mlpackage"
    uses = {users[0]: {value: 0.1}, users[1]: {value: 0.2}}
    with pytest.raises(UnsupportedError, match="one scale"):
        rewrite_weights(package, out, {}, edit=lambda spec: insert_pairs(spec, uses))
    with pytest.raises(UnsupportedError, match="nowhere"):
        rewrite_weights(package, out, {}, edit=lambda spec: insert_pairs(spec, {"nowhere": {value: 0.1}}))
    assert list(tmp_path.iterdir()) == []
    rewrite_weights(package, out, {}, edit=lambda spec: insert_pairs(spec, {users[0]: {value: 0.1}}))
    types = value_types(simulation.function)
    assert check_pairs(out, {users[0]: {value: 0.1}}, types) == 1
    with pytest.raises(ComponentError, match="scale"):
        check_pairs(out, {users[0]: {value: 0.11}}, types)
    with pytest.raises(ComponentError, match="read back"):
        check_pairs(out, {users[1]: {value: 0.1}}, types)
