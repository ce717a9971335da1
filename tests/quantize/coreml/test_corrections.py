"""A factor per layer in the file: what is decoded is the factor times what was, and the program computes that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sdmobile.basics.metrics import psnr as output_psnr
from sdmobile.quantize.coreml.apply import compress_package, correctable
from sdmobile.quantize.correction import FittedScales, choose_scales
from sdmobile.quantize.encodings import encode, scaled
from sdmobile.quantize.recipes import Recipe, named_recipe
from sdmobile.quantize.schemes import Palette, parse_scheme
from sdmobile.quantize.sensitivity_study import Study
from sdmobile.runtimes.mlprogram import MLProgram
from tests.quantize.coreml.conftest import IDS
from tests.runtimes.mlprogram.support import convert_module, psnr


@pytest.mark.parametrize("name", ["palette4", "palette2g16", "int8c", "uint4b16"])
def test_a_factor_multiplies_the_decoded_weight_at_no_cost(name: str) -> None:
    weight = np.random.default_rng(0).normal(0, 0.05, (32, 64)).astype(np.float16)
    encoding = encode(weight, parse_scheme(name))
    changed = scaled(encoding, 1.0625, weight)
    exact = encoding.decode().astype(np.float64) * 1.0625
    np.testing.assert_allclose(changed.decode(), exact, rtol=2**-9, atol=1e-6)
    assert changed.stored_bytes == encoding.stored_bytes
    assert changed.mse == pytest.approx(np.mean((weight.astype(np.float64) - changed.decode()) ** 2), rel=1e-4)


def test_float16_weights_stay() -> None:
    weight = np.ones((4, 4), np.float16)
    assert scaled(encode(weight, parse_scheme("fp16")), 1.5, weight).decode() is weight


def test_the_factor_is_in_the_written_package(package: Path, tmp_path: Path) -> None:
    assert correctable([package]) == {"embedding", "conv", "twice", "out"}
    assert correctable([package, package]) == set()
    recipe, factor = named_recipe("palette4"), 1.25
    fitted = FittedScales({"out": factor}, 4, 30.0, 31.0)
    plain = compress_package(package, tmp_path / "plain.mlpackage", recipe, "unet")
    record = compress_package(package, tmp_path / "scaled.mlpackage", recipe, "unet", fitted=fitted)
    assert record.checked == plain.checked == 4
    assert record.details is not None
    assert record.details["correction"]["kept"] == 1
    assert record.details["correction"]["held_out_after_db"] == 31.0
    ids = {"ids": IDS.int().numpy()}
    before, after = (MLProgram(tmp_path / f"{n}.mlpackage").predict(ids)["output"] for n in ("plain", "scaled"))
    assert psnr(factor * before.astype(np.float64), after) > 60  # the last layer has no bias
    assert psnr(before, after) < 30


def linear_study(module: nn.Module, seed: int) -> Study:
    generator = torch.Generator().manual_seed(seed)
    rows = tuple((torch.randn(1, 16, 64, generator=generator).abs(),) for _ in range(6))
    return Study("unet", module, rows)


def test_what_was_fitted_shows_in_the_file(tmp_path: Path) -> None:
    """The gain that the manifest names is that of the written package, on inputs that decided nothing."""
    torch.manual_seed(5)
    module = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64, bias=False)).eval().requires_grad_(False)
    fit, decide, held_out = (linear_study(module, seed) for seed in range(3))
    recipe = Recipe("two", Palette(1))
    example = held_out.rows[0][0]
    source = convert_module(module, {"x": example}, tmp_path / "source.mlpackage", "iOS17", float16=True)
    fitted = choose_scales(fit, decide, held_out, recipe, correctable([source]))
    assert fitted.tried == 2
    assert fitted.scales
    assert fitted.after_db > fitted.before_db + 0.1
    exact = np.stack(held_out.outputs())
    found: list[float] = []
    for name, factors in (("plain", None), ("scaled", fitted)):
        out = tmp_path / f"{name}.mlpackage"
        compress_package(source, out, recipe, "unet", fitted=factors)
        program = MLProgram(out)
        outputs = [next(iter(program.predict({"x": row[0].numpy()}).values())) for row in held_out.rows]
        found.append(output_psnr(exact, np.concatenate(outputs)))
    assert found == pytest.approx([fitted.before_db, fitted.after_db], abs=0.1)


def test_factors_that_held_out_inputs_refuse_are_dropped() -> None:
    torch.manual_seed(5)
    layer = nn.Linear(64, 64, bias=False)
    module = nn.Sequential(layer).eval().requires_grad_(False)
    # Where the inputs have another direction, the layer's error has the opposite sense.
    weights = encode(layer.weight.numpy(), Palette(1)).decode().astype(np.float32)
    change = layer.weight.numpy() - weights
    gain = weights.T @ change + change.T @ weights
    values, vectors = np.linalg.eigh(gain)
    low, high = (torch.from_numpy(vectors[:, i].copy()).reshape(1, 1, 64) for i in (0, -1))
    assert values[0] < 0 < values[-1]
    towards, against = (Study("unet", module, ((x,),)) for x in (high, low))
    fitted = choose_scales(towards, towards, against, Recipe("one", Palette(1)))
    assert fitted.tried == 1
    assert fitted.after_db < fitted.before_db
    assert fitted.scales == {}
    assert fitted.to_json()["kept"] == 0
