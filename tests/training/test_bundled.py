"""The checkpoint that ships: its size, its committed figure, and that it draws what a prompt asks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdmobile.checkpoints import bundled_checkpoint, open_checkpoint
from sdmobile.checkpoints.shapes64.held_out import held_out_captions
from sdmobile.training.evaluate import drawer, measure_obedience


def test_the_weights_are_small_enough_to_ship() -> None:
    weights = sum(path.stat().st_size for path in bundled_checkpoint().rglob("*.safetensors"))
    assert weights <= 25_000_000


def test_the_committed_figure_is_of_these_weights_and_these_prompts() -> None:
    record = json.loads((bundled_checkpoint() / "training" / "obedience.json").read_text("utf-8"))
    assert record["model_hash"] == open_checkpoint().content_hash
    assert [one["prompt"] for one in record["all"]] == [caption.text for caption in held_out_captions(200)]
    assert record["obeyed"] == sum(not one["wrong"] for one in record["all"])
    assert record["share"] >= 0.9
    assert record["steps"] == 20


@pytest.mark.parametrize(
    "recipe", sorted((bundled_checkpoint() / "recipes").glob("mixed-*.json")), ids=lambda path: path.stem
)
def test_the_named_recipes_were_searched_for_these_weights(recipe: Path) -> None:
    assert json.loads(recipe.read_text("utf-8"))["evidence"]["source_hash"] == open_checkpoint().content_hash


@pytest.mark.parametrize("prompts", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_held_out_prompts_are_obeyed(prompts: int) -> None:
    """99.5 % are, so two failures of twelve, or one of three, are no accident."""
    draw, settings = drawer(None, "torch", steps=20, guidance=None)
    assert settings["guidance"] == 3.0
    assert measure_obedience(draw, prompts, settings, lambda *_: None).obeyed > prompts - (1 if prompts == 3 else 2)
