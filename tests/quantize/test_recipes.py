"""Recipes: names that decode, overrides, JSON, and errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmobile.errors import UnsupportedError
from sdmobile.quantize.recipes import NAMED, Override, Recipe, load_recipe, named_recipe, save_recipe
from sdmobile.quantize.schemes import W8A8, Float16, Linear, Palette, Scheme, parse_scheme

SCHEMES: st.SearchStrategy[Scheme] = st.one_of(
    st.just(Float16()),
    st.builds(Palette, st.sampled_from([1, 2, 3, 4, 6, 8]), st.integers(0, 99)),
    st.builds(Linear, st.sampled_from([4, 8]), st.integers(0, 99), st.booleans(), st.booleans()),
    st.builds(
        W8A8,
        st.integers(1, 99).map(float),
        st.integers(1, 99).map(lambda n: n / 2),
        st.sampled_from([45.0, 50.5, 0.0]),
    ),
)
RECIPES = st.builds(
    Recipe,
    st.text("abc-4.", min_size=1),
    SCHEMES,
    st.lists(st.builds(Override, st.text("ab.*_/", min_size=1), SCHEMES), max_size=3).map(tuple),
    st.integers(1, 10_000),
    st.none() | st.lists(st.sampled_from(["unet", "vae_decoder"]), min_size=1, unique=True).map(tuple),
    st.dictionaries(st.text("ab"), st.integers()),
)


@given(SCHEMES)
def test_a_scheme_is_its_name(scheme: Scheme) -> None:
    assert parse_scheme(scheme.name) == scheme


@given(RECIPES)
def test_json_keeps_a_recipe(recipe: Recipe) -> None:
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize("name", NAMED)
def test_named_recipes_give_their_scheme_to_every_large_weight(name: str) -> None:
    recipe = named_recipe(name)
    assert recipe.scheme_for("unet", "conv_in", 5000).name == name
    assert recipe.scheme_for("unet", "conv_in", 2047) == Float16()


def test_the_first_override_that_matches_decides_and_dots_are_underscores() -> None:
    overrides = (
        Override("unet/mid_block.*", Palette(8)),
        Override("*.attn?.to_q", Palette(2)),
        Override("vae_decoder/*", Float16()),
    )
    recipe = Recipe("r", Palette(4), overrides, components=("unet", "vae_decoder"))
    expected = {
        ("unet", "mid_block.attentions.0.attn1.to_q"): "palette8",
        ("unet", "mid_block_attentions_0_attn1_to_q"): "palette8",
        ("unet", "down_blocks_0_attn2_to_q"): "palette2",
        ("unet", "down_blocks_0_attn2_to_qq"): "palette4",
        ("vae_decoder", "mid_block.attentions.0.attn1.to_q"): "palette2",
        ("vae_decoder", "mid_block.attentions.0"): "fp16",
        ("text_encoder", "fc1"): "fp16",
    }
    assert {pair: recipe.scheme_for(*pair, 9999).name for pair in expected} == expected
    assert recipe.unmatched([("unet", "a.attn1.to_q"), ("vae_decoder", "x")]) == ("unet/mid_block.*",)


def test_the_key_is_that_of_the_result_not_of_its_story() -> None:
    recipe = Recipe("a", Palette(4), evidence={"db": 1})
    assert recipe.key == Recipe("b", Palette(4)).key
    assert recipe.key != Recipe("a", Palette(4), min_elements=1).key
    assert recipe.key != Recipe("a", Palette(4), (Override("x", Palette(6)),)).key


def test_a_saved_recipe_is_loaded(tmp_path: Path) -> None:
    recipe = Recipe("mixed", Palette(4), (Override("conv_in", Palette(8)),))
    save_recipe(recipe, tmp_path / "r.json")
    assert load_recipe(tmp_path / "r.json") == recipe
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("name", ["palette5", "palette4g0", "int8", "uint4", "int4x", "w8a8-1", "", "fp8", "palete6"])
def test_unknown_names_are_refused_with_near_ones(name: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        load_recipe(name)
    assert repr(name) in str(caught.value)
    assert "Known names: " in str(caught.value)
    assert name != "palete6" or "palette6" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"default": "palette5"}, "'palette5'"),
        ({"default": 4}, "`default`"),
        ({"overides": []}, "overides"),
        ({"overrides": {}}, "`overrides`"),
        ({"overrides": [{"pattern": "x"}]}, "`pattern` and `scheme`"),
        ({"min_elements": 0}, "min_elements"),
        ({"min_elements": True}, "min_elements"),
        ({"components": "unet"}, "components"),
        ({"evidence": []}, "evidence"),
        ({"schema_version": 2}, "schema_version"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_rule(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps({**named_recipe("palette4").to_json(), **change}))
    with pytest.raises(UnsupportedError) as caught:
        load_recipe(file)
    assert told in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"palette4"'])
def test_what_is_no_recipe_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UnsupportedError):
        load_recipe(tmp_path / "r.json")
    with pytest.raises(UnsupportedError):
        load_recipe(tmp_path / "missing.json")
