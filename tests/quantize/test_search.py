from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.errors import UnsupportedError
from sdmobile.quantize.recipes import Recipe, load_recipe, named_recipe, save_recipe
from sdmobile.quantize.search import Goal, least_bytes, least_error, search, total
from sdmobile.quantize.sensitivity import DEFAULT_SCHEMES, Sensitivity
from sdmobile.quantize.sensitivity_study import EncodedWeights, Study
from tests.quantize.small_studies import deep_network, encoded, sensitivity_of, study_of


def brute(costs: np.ndarray, weights: np.ndarray, limit: float) -> float | None:
    options = [[j for j in range(row.size) if not np.isnan(row[j])] for row in costs]
    sums = [(total(costs, c), total(weights, c)) for c in itertools.product(*options)]
    return min((cost for cost, weight in sums if weight <= limit), default=None)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    layers, choices = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    # Errors over ten orders of magnitude, as between one bit and eight in layers of different sensitivity.
    errors = 10.0 ** rng.uniform(-12, -2, (layers, choices))
    sizes = rng.integers(1, 10_000, (layers, choices)).astype(float)
    holes = rng.random((layers, choices)) < 0.2
    holes[:, rng.integers(choices)] = False
    errors[holes], sizes[holes] = np.nan, np.nan
    share = draw(st.floats(0, 1))
    return errors, sizes, share


@settings(max_examples=60, deadline=None)
@given(problems())
def test_least_error_is_that_of_all_allocations(problem: tuple[np.ndarray, np.ndarray, float]) -> None:
    errors, sizes, share = problem
    low, high = np.nanmin(sizes, axis=1).sum(), np.nanmax(sizes, axis=1).sum()
    budget = float(np.floor(low + share * (high - low)))
    found = least_error(errors, sizes, budget)
    best = brute(errors, sizes, budget)
    assert total(sizes, found) <= budget
    assert best is not None
    assert total(errors, found) == pytest.approx(best, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_least_bytes_is_that_of_all_allocations(problem: tuple[np.ndarray, np.ndarray, float]) -> None:
    errors, sizes, share = problem
    low, high = np.nanmin(errors, axis=1).sum(), np.nanmax(errors, axis=1).sum()
    limit = float(low * (high / low) ** share) * (1 + 1e-9)
    found = least_bytes(errors, sizes, limit)
    best = brute(sizes, errors, limit)
    assert total(errors, found) <= limit
    assert best is not None
    assert total(sizes, found) == pytest.approx(best, rel=1e-5)


def test_hundred_layers_beat_a_thousand_random_allocations_of_the_size() -> None:
    rng = np.random.default_rng(1)
    bits = np.array([1, 2, 3, 4, 6, 8, 16])
    elements = rng.integers(2_000, 700_000, 130)
    sizes = elements[:, None] * bits / 8.0
    errors = 10.0 ** rng.uniform(-8, -3, 130)[:, None] * 4.0**-bits
    budget = 4.0 * elements.sum() / 8
    found = least_error(errors, sizes, budget)
    assert total(sizes, found) <= budget
    # Lagrangian bound: no allocation within the budget has less error than min Σ (e + λ·b) − λ·budget.
    bounds = [(errors + price * sizes).min(axis=1).sum() - price * budget for price in 10.0 ** np.arange(-16, -6, 0.05)]
    assert max(bounds) <= total(errors, found) <= max(bounds) * 1.02
    assert total(errors, found) < 0.5 * errors[:, 3].sum()  # four bits everywhere


def test_a_budget_below_the_smallest_choices_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="smallest choice"):
        least_error(np.ones((2, 1)), np.full((2, 1), 10.0), 19.0)
    with pytest.raises(UnsupportedError, match="most exact"):
        least_bytes(np.ones((2, 1)), np.full((2, 1), 10.0), 1.9)


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
    assert sizes[0] < sizes[1] < table.stored_bytes[:, table.schemes.index("palette8")].sum()


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
