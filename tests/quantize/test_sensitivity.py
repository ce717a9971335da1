from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sdmobile.basics.metrics import psnr
from sdmobile.errors import UnsupportedError
from sdmobile.quantize.recipes import MIN_ELEMENTS, named_recipe
from sdmobile.quantize.sensitivity import Sensitivity, load_sensitivity, rank_correlation
from sdmobile.quantize.sensitivity_analysis import measured_layers
from sdmobile.quantize.sensitivity_study import compressible
from tests.quantize.small_studies import WIDTH, deep_network, encoded, sensitivity_of, study_of

SCHEMES = ("palette2", "palette8", "palette4g16")


def uneven() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 72), nn.GELU(), nn.Linear(72, WIDTH))


def test_the_table_survives_json_with_its_holes(tmp_path: Path) -> None:
    study = study_of(uneven())
    table = sensitivity_of(study, encoded(study, tmp_path / "w"), SCHEMES, probes=2)
    file = tmp_path / "sensitivity.json"
    file.write_text(json.dumps(table.to_json(), allow_nan=False))
    again = load_sensitivity(file)
    assert (again.component, again.schemes, again.layers) == (table.component, table.schemes, table.layers)
    assert (again.power, again.peak, again.settings) == (table.power, table.peak, table.settings)
    np.testing.assert_array_equal(again.stored_bytes, table.stored_bytes)
    for method in ("direct", "probes"):
        np.testing.assert_array_equal(again.errors[method], table.errors[method])
    assert np.isnan(again.stored_bytes[0, 2])  # 72 channels have no groups of 16


@pytest.mark.parametrize("change", [{"schema_version": 9}, {"layers": ["only one"]}, {"errors": [1]}])
def test_something_else_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    study = study_of(uneven())
    data = sensitivity_of(study, encoded(study, tmp_path), SCHEMES).to_json() | change
    with pytest.raises(UnsupportedError, match="quantize analyze"):
        Sensitivity.from_json(data)


def test_decibels_and_bits_are_those_of_the_definitions(tmp_path: Path) -> None:
    study = study_of(uneven())
    weights = encoded(study, tmp_path)
    table = sensitivity_of(study, weights, SCHEMES)
    exact = study.outputs()
    decoded = weights.get("0", "palette8")
    assert decoded is not None
    with study.replaced({"0": decoded[0]}):
        found = study.outputs()
    # The definition takes the peak of the found output, the table that of the exact one: 8 bits change it little.
    error = float(table.errors["direct"][0, 1])
    assert table.psnr_db(error) == pytest.approx(psnr(np.stack(exact), np.stack(found)), abs=0.01)
    assert table.error_of(table.psnr_db(error)) == pytest.approx(error)
    elements = 2 * WIDTH * 72
    stored = float(table.stored_bytes[:, table.schemes.index("palette2")].sum())
    assert stored == elements * 2 / 8 + 2 * 4 * 2  # two tables of four float16
    assert table.bits(stored) == pytest.approx(2 + 8 * 16 / elements)


def test_cells_measured_directly_go_before_estimates(tmp_path: Path) -> None:
    study = study_of(deep_network(3))
    table = sensitivity_of(study, encoded(study, tmp_path), ("palette2", "palette4"), probes=4)
    table.errors["direct"][1] = np.nan
    np.testing.assert_array_equal(table.best[1], table.errors["probes"][1])
    np.testing.assert_array_equal(table.best[[0, 2]], table.errors["direct"][[0, 2]])
    rho = rank_correlation(table)
    assert rho is not None
    assert rho > 0.7


def test_the_most_sensitive_layers_are_measured(tmp_path: Path) -> None:
    estimate = np.array([[1.0, 0.1], [5.0, 0.1], [0.2, 3.0], [np.nan, 0.5]])
    assert measured_layers("abcd", estimate, 2) == [1, 2]
    assert measured_layers("abcd", estimate, None) == [0, 1, 2, 3]
    assert measured_layers("abcd", None, 2) == [0, 1]


def test_what_can_be_compressed() -> None:
    module = nn.Module()
    module.component = nn.Sequential(nn.Conv2d(16, 16, 3), nn.GroupNorm(4, 16), nn.Linear(16, 16))
    module.component.append(nn.Embedding(MIN_ELEMENTS // 8, 8))
    assert list(compressible(module)) == ["0", "3"]  # the exporter's names have no wrapper in front


def test_replaced_weights_are_back_afterwards(tmp_path: Path) -> None:
    study = study_of(deep_network(2))
    before = study.outputs()
    weights, size = encoded(study, tmp_path).of_recipe(named_recipe("palette2"))
    assert size == 2 * (WIDTH * WIDTH * 2 // 8 + 8)
    with study.replaced(weights):
        assert max(np.abs(a - b).max() for a, b in zip(before, study.outputs(), strict=True)) > 1e-2
    np.testing.assert_array_equal(before, study.outputs())
    with pytest.raises(KeyError), study.replaced(weights | {"no such layer": before[0]}):
        pass
    np.testing.assert_array_equal(before, study.outputs())
