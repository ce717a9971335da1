"""The renderer draws what a scene says; held-out combinations stay out of training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmobile.checkpoints.shapes64.captions import caption
from sdmobile.checkpoints.shapes64.held_out import held_out_captions
from sdmobile.checkpoints.shapes64.scenes import (
    BACKGROUNDS,
    COLOURS,
    IMAGE_SIZE,
    SHAPES,
    Item,
    Scene,
    render,
    sample_scene,
)
from sdmobile.training.data import corpus, scene_batch

AREAS = {"circle": np.pi, "square": 4.0, "triangle": 2.0, "cross": 4 - 4 * (1 - 0.35) ** 2}  # of radius one


@pytest.mark.parametrize("shape", list(AREAS))
@pytest.mark.parametrize("radius", [8.5, 13.0])
def test_coverage_sums_to_the_area_of_the_shape(shape: str, radius: float) -> None:
    scene = Scene("black", (Item(shape, "yellow", "small", radius, 31.3, 32.6),))
    ground, paint = np.array(BACKGROUNDS["black"], float), np.array(COLOURS["yellow"], float)
    cover = (render(scene).astype(float) - ground)[..., 0] / (paint - ground)[0]
    assert cover.sum() == pytest.approx(AREAS[shape] * radius**2, rel=0.03)


@given(st.integers(0, 2**31), st.booleans())
def test_a_sampled_scene_is_on_its_side_of_the_split(seed: int, held_out: bool) -> None:
    scene = sample_scene(np.random.default_rng(seed), held_out)
    assert scene.held_out() == held_out
    for item in scene.items:
        assert item.radius + 1 <= item.x <= IMAGE_SIZE - item.radius - 1
        assert item.radius + 1 <= item.y <= IMAGE_SIZE - item.radius - 1


@given(st.integers(0, 2**31))
def test_two_items_never_touch(seed: int) -> None:
    scene = sample_scene(np.random.default_rng(seed))
    if len(scene.items) == 2:
        first, second = scene.items
        gap = max(abs(first.x - second.x), abs(first.y - second.y)) - first.radius - second.radius
        assert gap > 3


def test_held_out_prompts_are_combinations_that_training_never_drew() -> None:
    trained = {scene.combination() for scene in scene_batch(20, 0, 3000)}
    rng = np.random.default_rng(7_000_000)
    tested: set[str] = set()
    for prompt in held_out_captions(100):
        scene = sample_scene(rng, held_out=True)
        assert caption(rng, scene) == prompt  # the same draw as `held_out_captions`
        tested.add(scene.combination())
    assert not tested & trained


def test_about_one_combination_in_ten_is_held_out() -> None:
    kinds = [Item(shape, colour, "small", 9.0, 32.0, 32.0) for shape in SHAPES for colour in COLOURS]
    pairs = [(a, b) for a in kinds for b in kinds if a != b]
    held = [Scene("white", pair, axis=axis).held_out() for pair in pairs for axis in "xy"]
    assert 0.07 < np.mean(held) < 0.13
    assert held == [Scene("pink", pair, axis=axis).held_out() for pair in pairs for axis in "xy"]


def test_captions_need_no_punctuation_and_no_capitals() -> None:
    for text in corpus(0, 300):
        assert text == text.lower()
        assert all(letter.isalpha() or letter == " " for letter in text)
