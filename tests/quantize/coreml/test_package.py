"""Rewritten packages against coremltools: structure, opset, values, and what the program computes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.errors import ComponentError, OutputError, UnsupportedError
from sdmobile.formats.mlprogram.constants import WeightReader, stored_constants, weight_constants
from sdmobile.formats.mlprogram.read import read_program
from sdmobile.quantize import support
from sdmobile.quantize.coreml.apply import compress_package, modules
from sdmobile.quantize.coreml.check import check_weights, digest
from sdmobile.quantize.coreml.forms import minimum_ios
from sdmobile.quantize.coreml.package import rewrite_weights
from sdmobile.quantize.encodings import Encoding, HalfEncoding, encode
from sdmobile.quantize.recipes import Override, Recipe, named_recipe
from sdmobile.quantize.schemes import Float16, Palette, parse_scheme
from sdmobile.runtimes.mlprogram import MLProgram
from tests.quantize.coreml.conftest import IDS, Layers
from tests.runtimes.mlprogram.support import psnr

SCHEMES = [f"palette{bits}" for bits in (1, 2, 3, 4, 6, 8)] + [
    *("palette4g16", "palette3g8", "int8c", "uint8c", "int4b16", "uint4b8", "int8b16", "int4c", "fp16")
]


def _encodings(package: Path, scheme: str) -> dict[str, Encoding]:
    reader = WeightReader(package)
    return {c.name: encode(reader.read(c), parse_scheme(scheme)) for c in weight_constants(package)}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_system_of_an_encoding_is_that_of_its_scheme(scheme: str) -> None:
    weight = np.random.default_rng(0).normal(size=(64, 48, 1, 1)).astype(np.float16)
    assert minimum_ios(encode(weight, parse_scheme(scheme))) == support.minimum_ios(parse_scheme(scheme))


def _with_weights(layers: Layers, encodings: dict[str, Encoding]) -> Layers:
    """The module with the decoded weights; names of constants are those of parameters."""
    changed = copy.deepcopy(layers)
    for name, parameter in changed.named_parameters():
        found = [e for key, e in encodings.items() if key.startswith("p_" + name.replace(".", "_"))]
        if found:
            parameter.data = torch.from_numpy(found[0].decode().astype(np.float32))
    return changed


def test_weights_are_found_and_other_constants_are_not(package: Path) -> None:
    found = {constant.module: constant for constant in weight_constants(package)}
    assert {m: (c.shape, c.roles, len(c.users)) for m, c in found.items()} == {
        "embedding": ((64, 48), ("gather.x",), 1),
        "conv": ((64, 48, 3, 3), ("conv.weight",), 1),
        "twice": ((64, 64), ("linear.weight",), 2),
        "out": ((48, 64), ("linear.weight",), 1),
    }
    others = [c.roles for c in stored_constants(package) if not c.is_weight]
    assert ("layer_norm.gamma",) in others
    assert ("linear.bias",) in others
    assert ("add.y",) in others


def test_arrays_are_read_as_they_were_stored(package: Path, layers: Layers) -> None:
    reader = WeightReader(package)
    for constant in weight_constants(package):
        expected = dict(layers.named_parameters())[f"{constant.module}.weight"].detach().half().numpy()
        assert np.array_equal(reader.read(constant), expected)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_rewritten_package_computes_with_the_decoded_weights(
    scheme: str, package: Path, layers: Layers, tmp_path: Path
) -> None:
    encodings = _encodings(package, scheme)
    written = rewrite_weights(package, tmp_path / "new.mlpackage", encodings)
    assert written.ios == max(17, *map(minimum_ios, encodings.values()))
    assert written.raised_from == (17 if written.ios == 18 else None)
    assert check_weights(written.path, {name: digest(e.decode()) for name, e in encodings.items()}) == 4
    program = MLProgram(written.path)
    assert program.specification_version == (9 if written.ios == 18 else 8)
    output = program.predict({"ids": IDS.int().numpy()})["output"]
    with torch.no_grad():
        expected = _with_weights(layers, encodings)(IDS).numpy()
        untouched = layers(IDS).numpy()
    assert psnr(expected, output) > 60
    if scheme != "fp16":
        assert psnr(expected, untouched) < 60  # the comparison above can tell them apart


@pytest.mark.parametrize("scheme", ["palette1", "palette6", "palette4g16", "palette3", "int8c", "uint8c", "int4b16"])
def test_coremltools_reads_the_same_values(scheme: str, package: Path, tmp_path: Path) -> None:
    encodings = _encodings(package, scheme)
    path = rewrite_weights(package, tmp_path / "new.mlpackage", encodings).path
    found = _pymil_weights(path)
    assert set(found) == set(encodings)
    for name, encoding in encodings.items():
        decoded = encoding.decode().astype(np.float32)
        # coremltools multiplies in float16 where we round a float32 product once.
        assert np.allclose(found[name], decoded, rtol=2e-3, atol=1e-7), name


def _pymil_weights(path: Path) -> dict[str, np.ndarray]:
    """Decompresses through coremltools' own loader."""
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.proto import Model_pb2

    spec: Any = Model_pb2.Model()  # pyright: ignore[reportAttributeAccessIssue]
    spec.ParseFromString(next(path.rglob("*.mlmodel")).read_bytes())
    weights = str(next(path.rglob("weight.bin")).parent)
    program: Any = load(spec, specification_version=spec.specificationVersion, file_weights_dir=weights)
    ops = [op for op in program.functions["main"].operations if op.op_type.startswith("constexpr_")]
    return {op.outputs[0].name: np.asarray(op.materialized_val_inference(), np.float32) for op in ops}


@pytest.mark.parametrize("scheme", ["palette6", "palette4", "palette4g16", "palette3", "int8c", "int4b16"])
def test_the_structure_is_that_of_coremltools(scheme: str, package: Path, tmp_path: Path) -> None:
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    ours = rewrite_weights(package, tmp_path / "ours.mlpackage", _encodings(package, scheme))
    source = package
    if ours.ios == 18:  # the same program with the operation set of iOS 18, which coremltools has to be given
        source = rewrite_weights(package, tmp_path / "raised.mlpackage", {}, ios=18).path
    options: dict[str, Any] = {
        "palette6": {"nbits": 6, "mode": "uniform"},
        "palette4": {"nbits": 4, "mode": "uniform"},
        "palette3": {"nbits": 3, "mode": "uniform"},
        "palette4g16": {"nbits": 4, "mode": "uniform", "granularity": "per_grouped_channel", "group_size": 16},
        "int8c": {"mode": "linear_symmetric", "dtype": "int8"},
        "int4b16": {"mode": "linear_symmetric", "dtype": "int4", "granularity": "per_block", "block_size": 16},
    }[scheme]
    palette = scheme.startswith("palette")
    config: Any = (cto.OpPalettizerConfig if palette else cto.OpLinearQuantizerConfig)(weight_threshold=0, **options)
    compress: Any = cto.palettize_weights if palette else cto.linear_quantize_weights
    model = ct.models.MLModel(str(source), skip_model_load=True)
    compress(model, cto.OptimizationConfig(global_config=config)).save(str(tmp_path / "theirs.mlpackage"))
    weights = {constant.name for constant in weight_constants(package)}
    theirs = _structure(tmp_path / "theirs.mlpackage", weights)
    assert len(theirs) == 4
    assert _structure(ours.path, weights) == theirs


def _structure(path: Path, weights: set[str]) -> dict[tuple[int, ...], Any]:
    """Returns type, opset and stored types of each compressed weight, by its shape."""
    function = read_program(path)[1]
    found: dict[tuple[int, ...], Any] = {}
    for op in function.operations:
        if op.type.startswith("constexpr_") and any(op.outputs[0].name.startswith(name) for name in weights):
            arguments = {name: str(value.type) for name, value in op.attributes.items()}
            arguments |= {name: str(getattr(bindings[0], "type", "")) for name, bindings in op.inputs.items()}
            found[op.outputs[0].type.sizes] = (op.type, function.ios, function.specification_version, arguments)
    return found


def test_mixed_recipes_and_small_weights(package: Path, tmp_path: Path) -> None:
    recipe = Recipe("mixed", Palette(4), (Override("conv", Palette(8)), Override("twice", Palette(2))), 3073)
    record = compress_package(package, tmp_path / "new.mlpackage", recipe, "unet")
    assert {t.module: t.scheme for t in record.tensors} == {
        "embedding": "fp16",
        "conv": "palette8",
        "twice": "palette2",
        "out": "fp16",
    }
    assert record.checked == 2
    assert record.details == {"deployment_target": "iOS17"}
    by_hand = (2 * 64 * 48 * 16 + 64 * 48 * 9 * 8 + 256 * 16 + 64 * 64 * 2 + 4 * 16) / (
        2 * 64 * 48 + 64 * 48 * 9 + 64 * 64
    )
    assert record.bits_per_weight == pytest.approx(by_hand)
    assert record.bytes_after < record.bytes_before
    assert modules(tmp_path / "new.mlpackage") == ("embedding", "out")


def test_biases_and_weights_can_be_replaced_by_other_values(package: Path, layers: Layers, tmp_path: Path) -> None:
    bias = next(c for c in stored_constants(package) if c.roles == ("linear.bias",))
    values = np.full(bias.shape, 0.5, np.float16)
    path = rewrite_weights(package, tmp_path / "new.mlpackage", {bias.name: HalfEncoding(values)}).path
    changed = copy.deepcopy(layers)
    changed.twice.bias.data[:] = 0.5
    with torch.no_grad():
        expected = changed(IDS).numpy()
    assert psnr(expected, MLProgram(path).predict({"ids": IDS.int().numpy()})["output"]) > 60


def test_a_weight_that_changed_on_the_way_is_noticed(package: Path, tmp_path: Path) -> None:
    encodings = _encodings(package, "palette4")
    path = rewrite_weights(package, tmp_path / "new.mlpackage", encodings).path
    expected = {name: digest(e.decode()) for name, e in encodings.items()}
    weights = next(path.rglob("weight.bin"))
    data = bytearray(weights.read_bytes())
    data[64 + 64 + 100] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ComponentError, match="must decode to what was encoded"):
        check_weights(path, expected)
    with pytest.raises(ComponentError, match="must be in the file"):
        check_weights(package, {"nowhere": b""})


def test_refusals(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.mlpackage"
    with pytest.raises(UnsupportedError, match="needs iOS 18"):
        rewrite_weights(package, out, _encodings(package, "palette3"), ios=17)
    with pytest.raises(UnsupportedError, match="deployment target is iOS17"):
        compress_package(package, out, named_recipe("int4b32"), "unet", "iOS17")
    with pytest.raises(UnsupportedError, match="nothing"):
        rewrite_weights(package, out, {"nothing": HalfEncoding(np.zeros(3, np.float16))})
    with pytest.raises(UnsupportedError, match="activations"):
        compress_package(package, out, named_recipe("w8a8"), "unet")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_get_smaller_is_an_error(package: Path, tmp_path: Path) -> None:
    # One float16 scale per element of a linear layer: three bytes where there were two.
    recipe = Recipe("blocks", parse_scheme("int8b1"), (Override("conv", Float16()),), min_elements=1)
    with pytest.raises(OutputError, match="smaller"):
        compress_package(package, tmp_path / "new.mlpackage", recipe, "unet")
    assert list(tmp_path.iterdir()) == []


def test_functions_share_what_they_shared(package: Path, tmp_path: Path) -> None:
    import coremltools as ct

    descriptor = ct.utils.MultiFunctionDescriptor()
    descriptor.add_function(str(package), "main", "first")
    descriptor.add_function(str(package), "main", "second")
    descriptor.default_function_name = "first"
    both = tmp_path / "both.mlpackage"
    ct.utils.save_multifunction(descriptor, str(both))
    constants = weight_constants(both)
    assert len(constants) == 4
    assert all(len(c.users) == len(weight_constants(package)[i].users) for i, c in enumerate(constants))
    encodings = _encodings(both, "palette4")
    path = rewrite_weights(both, tmp_path / "new.mlpackage", encodings).path
    alone = rewrite_weights(package, tmp_path / "alone.mlpackage", _encodings(package, "palette4"), ios=18).path
    sizes = [next(p.rglob("weight.bin")).stat().st_size for p in (path, alone)]
    assert abs(sizes[0] - sizes[1]) < 2048
    ids = {"ids": IDS.int().numpy()}
    expected = MLProgram(alone).predict(ids)["output"]
    for name in ("first", "second"):
        assert np.array_equal(MLProgram(path, function=name).predict(ids)["output"], expected)
