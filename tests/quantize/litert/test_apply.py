"""Integer weights in a `.tflite` file: what is stored, what LiteRT computes with it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from sdmobile.errors import ComponentError, OutputError, UnsupportedError
from sdmobile.formats.tflite.names import first_place
from sdmobile.formats.tflite.reader import read_graph
from sdmobile.quantize.litert import engine
from sdmobile.quantize.litert.apply import check_integers, compress_tflite, modules
from sdmobile.quantize.litert.engine import expand, float16_weights
from sdmobile.quantize.recipes import Override, Recipe, named_recipe
from sdmobile.quantize.schemes import Float16, Linear

if TYPE_CHECKING:
    from pathlib import Path


def _types(path: Path) -> dict[str, str]:
    """Returns the type of each constant of at least 2,048 elements by its module."""
    tensors = read_graph(path).tensors
    return {first_place(t.name): t.dtype for t in tensors if t.constant and t.elements >= 2048}


def _outputs(path: Path) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    rng = np.random.default_rng(0)
    outputs = []
    for _ in range(8):
        interpreter.set_tensor(entry["index"], rng.standard_normal(entry["shape"]).astype(np.float32))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result["index"]).astype(np.float64))
    return np.concatenate(outputs)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(np.ptp(a) ** 2 / np.mean((a - b) ** 2)))


# Least PSNR in dB: a few dB below what the seeded network gives; int4 has 16 times the step of int8 (24 dB).
@pytest.mark.parametrize(("name", "least", "most"), [("int8c", 45, 80), ("int8d", 40, 75), ("int4c", 22, 50)])
def test_precision_and_size(small_tflite: Path, tmp_path: Path, name: str, least: float, most: float) -> None:
    out = tmp_path / "out.tflite"
    record = compress_tflite(small_tflite, out, named_recipe(name), "unet")
    assert least < _psnr(_outputs(small_tflite), _outputs(out)) < most
    assert record.schemes == {name: 3}
    assert record.checked == 3
    assert (record.bytes_before, record.bytes_after) == (small_tflite.stat().st_size, out.stat().st_size)
    bits = 4 if "4" in name else 8
    for tensor in record.tensors:
        scales = {"conv": 96, "wide": 128, "narrow": 30}[tensor.module]
        assert tensor.bytes_after == tensor.elements * bits // 8 + 4 * scales


def test_error_recorded_is_that_of_rounding(small_tflite: Path, tmp_path: Path) -> None:
    """Rounding to steps of max/127 leaves step²/12 on the average."""
    record = compress_tflite(small_tflite, tmp_path / "out.tflite", named_recipe("int8c"), "unet")
    for weight, tensor in zip(float16_weights(small_tflite), record.tensors, strict=True):
        rows = np.abs(weight.values.reshape(len(weight.values), -1).astype(np.float64))
        assert tensor.mse == pytest.approx(float(np.mean((rows.max(axis=1) / 127) ** 2) / 12), rel=0.1)


def test_blocks_only_where_a_kernel_takes_them(small_tflite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tflite"
    record = compress_tflite(small_tflite, out, named_recipe("int4b32"), "unet")
    assert _types(out) == {"conv": "FLOAT16", "wide": "INT4", "narrow": "INT4"}
    assert {t.module: t.reason for t in record.tensors if t.reason} == {"conv": "int4b32: CONV_2D has no kernel for it"}
    assert 25 < _psnr(_outputs(small_tflite), _outputs(out)) < 60


def test_overrides_and_small_weights(small_tflite: Path, tmp_path: Path) -> None:
    recipe = Recipe("mixed", Linear(8), (Override("conv", Linear(4)), Override("unet/wid*", Float16())))
    out = tmp_path / "out.tflite"
    record = compress_tflite(small_tflite, out, recipe, "unet")
    assert _types(out) == {"conv": "INT4", "wide": "FLOAT16", "narrow": "INT8"}
    assert record.schemes == {"int4c": 1, "fp16": 1, "int8c": 1}
    kept = compress_tflite(small_tflite, tmp_path / "large.tflite", replace(recipe, min_elements=10_000), "unet")
    assert kept.schemes == {"int4c": 1, "fp16": 2}


def test_what_stays_is_the_same_bytes(small_tflite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tflite"
    compress_tflite(small_tflite, out, Recipe("one", Float16(), (Override("conv", Linear(8)),)), "unet")
    before = {w.module: w.values for w in float16_weights(small_tflite)}
    after = {w.module: w.values for w in float16_weights(out)}
    assert sorted(after) == ["narrow", "wide"]
    assert all(np.array_equal(values.view(np.uint16), before[name].view(np.uint16)) for name, values in after.items())


def test_modules(small_tflite: Path) -> None:
    assert modules(small_tflite) == ("conv", "wide", "narrow")


def test_a_file_that_does_not_shrink_is_an_error(small_tflite: Path, tmp_path: Path) -> None:
    for recipe in (named_recipe("fp16"), replace(named_recipe("int8c"), min_elements=10**9)):
        with pytest.raises(OutputError, match="must be smaller"):
            compress_tflite(small_tflite, tmp_path / "out.tflite", recipe, "unet")
    assert list(tmp_path.iterdir()) == []


def test_refusals(small_tflite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tflite"
    with pytest.raises(UnsupportedError, match="fp16 or integer weights"):
        compress_tflite(small_tflite, out, named_recipe("palette6"), "unet")
    with pytest.raises(UnsupportedError, match="on the LiteRT GPU only fp16"):
        compress_tflite(small_tflite, out, named_recipe("int8c"), "unet", device=None)
    out.write_bytes(b"there")
    with pytest.raises(OutputError, match="must not exist"):
        compress_tflite(small_tflite, out, named_recipe("int8c"), "unet")
    assert out.read_bytes() == b"there"


def test_the_check_finds_other_weights(small_tflite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tflite"
    compress_tflite(small_tflite, out, named_recipe("int8c"), "unet")
    weights = float16_weights(small_tflite)
    schemes = {weight.name: Linear(8) for weight in weights}
    assert len(check_integers(out, weights, schemes)) == 3
    wrong = weights[0].values.copy()
    wrong.reshape(-1)[5] += np.float16(0.01)
    with pytest.raises(ComponentError, match="more than rounding"):
        check_integers(out, (replace(weights[0], values=wrong), *weights[1:]), schemes)
    with pytest.raises(ComponentError, match="not stored as the recipe says"):
        check_integers(out, weights, dict.fromkeys(schemes, Linear(4)))


def test_expanded_weights_compute_the_same(small_tflite: Path, tmp_path: Path) -> None:
    from ai_edge_litert.tools import flatbuffer_utils

    model: Any = flatbuffer_utils.read_model(str(small_tflite))
    expand(model, float16_weights(small_tflite))
    (tmp_path / "wide.tflite").write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    assert float16_weights(tmp_path / "wide.tflite") == ()
    np.testing.assert_allclose(_outputs(tmp_path / "wide.tflite"), _outputs(small_tflite), rtol=1e-5, atol=1e-6)


class Grouped(torch.nn.Module):
    """Convolutions with a channel per group, two channels per group, and four groups: two of them are depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = torch.nn.Conv2d(64, 64, 7, padding=3, groups=64)
        self.pairs = torch.nn.Conv2d(64, 128, 5, padding=2, groups=64)
        self.grouped = torch.nn.Conv2d(128, 64, 3, padding=1, groups=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.grouped(torch.relu(self.pairs(torch.relu(self.depth(x)))))


@pytest.mark.parametrize("name", ["int8c", "int8d"])
def test_depthwise_and_grouped_weights_are_read_along_their_own_axis(tmp_path: Path, name: str) -> None:
    import litert_torch

    from sdmobile.quantize.tflite_float16 import cast_weights

    torch.manual_seed(0)
    source, out = tmp_path / "float16.tflite", tmp_path / "out.tflite"
    litert_torch.convert(Grouped().eval(), (torch.zeros(1, 64, 8, 8),)).export(str(tmp_path / "float32.tflite"))
    cast_weights(tmp_path / "float32.tflite", source)
    weights = float16_weights(source)
    assert [w.operator for w in weights] == ["DEPTHWISE_CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    record = compress_tflite(source, out, named_recipe(name), "unet")
    assert record.checked == 3
    for weight, tensor in zip(weights, record.tensors, strict=True):
        axis = 3 if weight.operator == "DEPTHWISE_CONV_2D" else 0
        others = tuple(other for other in range(4) if other != axis)
        steps = np.abs(weight.values.astype(np.float64)).max(axis=others) / 127
        assert tensor.mse == pytest.approx(float(np.mean(steps**2) / 12), rel=0.15)
    assert 35 < _psnr(_outputs(source), _outputs(out)) < 80


def test_large_weights_are_quantised_like_small_ones() -> None:
    """AEQ 0.10 fails on more than 32 MiB with four axes; when it no longer does, `large_weights` can go."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor as module

    weight = np.random.default_rng(0).standard_normal((96, 3, 3, 10_000), np.float32)
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    params: Any = qtyping.UniformQuantParams(8, 0, scale, np.zeros(scale.shape, np.int32), True)
    with pytest.raises(ValueError, match="axis remapping"):
        module.uniform_quantize(weight, params)
    with engine.large_weights():
        result = module.uniform_quantize(weight, params)
    assert result.dtype == np.int8
    assert np.array_equal(result, np.clip(np.rint(weight / scale), -127, 127).astype(np.int8))
    with pytest.raises(ValueError, match="axis remapping"):
        module.uniform_quantize(weight, params)
