from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sdmobile.quantize.correction import corrected, moments
from sdmobile.quantize.recipes import named_recipe
from sdmobile.quantize.sensitivity_study import Study
from tests.quantize.small_studies import WIDTH, encoded


def shifted(mean: float, seed: int, module: nn.Module) -> Study:
    """Inputs of a mean far from zero, as after an activation function: then ΔW·x has a mean as well."""
    generator = torch.Generator().manual_seed(seed)
    rows = tuple((torch.randn(1, 16, WIDTH, generator=generator) + mean,) for _ in range(4))
    return Study("unet", module.eval().requires_grad_(False), rows)


def layer(bias: bool = True) -> nn.Module:
    torch.manual_seed(11)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=bias))


def test_the_shift_is_the_mean_of_the_change(tmp_path: Path) -> None:
    study = shifted(2.0, 0, layer())
    weights, _ = encoded(study, tmp_path).of_recipe(named_recipe("palette2"))
    change = study.weight("0").astype(np.float64) - weights["0"]
    inputs = np.concatenate([row[0][0].numpy() for row in study.rows]).astype(np.float64)
    found = moments(study, weights)["0"]
    np.testing.assert_allclose(found.shift, change @ inputs.mean(0), atol=1e-5)
    exact, coarse = inputs @ study.weight("0").T.astype(np.float64), inputs @ weights["0"].astype(np.float64).T
    assert found.scale == pytest.approx(float((exact * coarse).sum() / np.square(coarse).sum()), rel=1e-6)


def test_a_bias_takes_the_mean_error_away_on_other_inputs(tmp_path: Path) -> None:
    module = layer()
    fit, judge, other = (shifted(2.0, seed, module) for seed in (0, 1, 2))
    weights, _ = encoded(fit, tmp_path).of_recipe(named_recipe("palette2"))
    exact = np.stack(other.outputs())
    with other.replaced(weights):
        before = np.stack(other.outputs()) - exact
    found = corrected(fit, judge, weights)
    assert list(found.biases) == ["0"]
    assert found.after_db > found.before_db + 3.0
    linear = module.get_submodule("0")
    assert isinstance(linear, nn.Linear)
    old = linear.bias.data
    linear.bias.data = torch.from_numpy(found.biases["0"])
    scaled = {"0": np.float32(found.scales.get("0", 1.0)) * weights["0"].astype(np.float32)}
    with other.replaced(scaled):
        after = np.stack(other.outputs()) - exact
    linear.bias.data = old
    assert np.abs(after.mean((0, 1))).mean() < 0.2 * np.abs(before.mean((0, 1))).mean()
    assert np.square(after).mean() < 0.5 * np.square(before).mean()


def test_what_does_not_help_elsewhere_is_off(tmp_path: Path) -> None:
    module = layer()
    fit, judge = shifted(3.0, 0, module), shifted(-3.0, 1, module)  # the shift has the wrong sign here
    weights, _ = encoded(fit, tmp_path).of_recipe(named_recipe("palette2"))
    before = judge.outputs()
    found = corrected(fit, judge, weights)
    assert not found.biases
    assert found.tried == 2
    assert found.after_db >= found.before_db
    np.testing.assert_array_equal(before, judge.outputs())


def test_a_layer_without_a_bias_gets_none(tmp_path: Path) -> None:
    module = layer(bias=False)
    fit, judge = shifted(2.0, 0, module), shifted(2.0, 1, module)
    weights, _ = encoded(fit, tmp_path).of_recipe(named_recipe("palette2"))
    found = corrected(fit, judge, weights)
    assert not found.biases
    assert found.tried == 1


def test_a_convolutions_moments_are_those_of_its_output(tmp_path: Path) -> None:
    torch.manual_seed(2)
    module = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, stride=2))
    rows = tuple((torch.rand(1, 16, 8, 8) + 1.0,) for _ in range(2))
    study = Study("unet", module.eval().requires_grad_(False), rows)
    weights, _ = encoded(study, tmp_path).of_recipe(named_recipe("palette3"))
    exact = np.stack(study.outputs())
    with study.replaced(weights):
        coarse = np.stack(study.outputs())
    expected = (exact - coarse).mean((0, 2, 3))
    np.testing.assert_allclose(moments(study, weights)["0"].shift, expected, atol=1e-6)
