from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdmobile.quantize.recipes import Recipe, load_recipe, named_recipe, save_recipe
from sdmobile.quantize.search import Goal, search
from sdmobile.quantize.sensitivity import DEFAULT_SCHEMES, Sensitivity
from sdmobile.quantize.sensitivity_study import EncodedWeights, Study
from tests.quantize.small_studies import deep_network, encoded, sensitivity_of, study_of

Analysed = tuple[Study, EncodedWeights, Sensitivity]


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    study = study_of(deep_network())
    weights = encoded(study, tmp_path_factory.mktemp("weights"))
    return study, weights, sensitivity_of(study, weights, DEFAULT_SCHEMES, probes=8)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_a_mixed_recipe_beats_the_uniform_one_of_its_size(analysed: Analysed, bits: int) -> None:
    study, weights, table = analysed
    uniform = named_recipe(f"palette{bits}")
    expected, size = weights.of_recipe(uniform)
    recipe = search(table, Goal(bits=table.bits(size)), study, weights)
    found, mixed_size = weights.of_recipe(recipe)
    assert mixed_size <= size
    assert mixed_size == recipe.evidence["stored_bytes"]
    exact = study.outputs()
    level = study.quality(exact, found).psnr_db
    assert level == pytest.approx(recipe.evidence["measured_db"], abs=1e-3)
    assert level >= study.quality(exact, expected).psnr_db + 3.0


def test_a_floor_is_reached_when_measured_and_a_smaller_one_is_smaller(analysed: Analysed) -> None:
    study, weights, table = analysed
    sizes = []
    for floor in (30.0, 45.0):
        recipe = search(table, Goal(psnr_db=floor), study, weights)
        found, size = weights.of_recipe(recipe)
        assert study.quality(study.outputs(), found).psnr_db >= floor
        sizes.append(size)
    assert sizes[0] < sizes[1] < table.uniform_bytes("palette8")


def test_the_recipe_names_every_layer_and_survives_a_file(analysed: Analysed, tmp_path: Path) -> None:
    _, weights, table = analysed
    recipe = search(table, Goal(bits=3.0), None, None)
    assert recipe.name == "mixed-3.0"
    assert recipe.evidence["measured_db"] is None
    assert [o.pattern for o in recipe.overrides] == [f"unet/{layer}" for layer in table.layers]
    save_recipe(recipe, tmp_path / "recipe.json")
    again = load_recipe(tmp_path / "recipe.json")
    assert Recipe.to_json(again) == recipe.to_json()
    for layer, elements in zip(table.layers, table.elements.tolist(), strict=True):
        assert again.scheme_for("unet", layer, elements) == recipe.scheme_for("unet", layer, elements)
        assert again.scheme_for("vae_decoder", layer, elements).name == "fp16"
    np.testing.assert_equal(weights.of_recipe(again)[1], recipe.evidence["stored_bytes"])


def test_the_same_table_gives_the_same_recipe(analysed: Analysed) -> None:
    _, _, table = analysed
    again = Sensitivity.from_json(table.to_json())
    assert search(table, Goal(bits=3.5), None, None).to_json() == search(again, Goal(bits=3.5), None, None).to_json()


def test_a_goal_is_one_thing() -> None:
    for wrong in ({}, {"bits": 4.0, "psnr_db": 40.0}):
        with pytest.raises(ValueError, match="either"):
            Goal(**wrong)
