"""The checker reads the renderer's pictures at least 99 times in 100, and refuses wrong ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sdmobile.checkpoints.shapes64.captions import Claims, ItemClaim, caption
from sdmobile.checkpoints.shapes64.checker import compare, complaints, read_picture
from sdmobile.checkpoints.shapes64.scenes import BACKGROUNDS, COLOURS, SHAPES, render, sample_scene

PICTURES = 1000


def test_at_least_99_percent_of_rendered_scenes_obey_their_captions() -> None:
    rng = np.random.default_rng(11)
    wrong = 0
    for index in range(PICTURES):
        scene = sample_scene(rng, held_out=index % 2 == 0)
        wrong += bool(complaints(render(scene), caption(rng, scene).claims))
    assert wrong <= PICTURES // 100


def _falsified(claims: Claims, rng: np.random.Generator) -> Claims:
    """Returns the claims with one attribute changed to another value."""
    item = claims.items[0]
    changes: list[Claims] = []
    for name, options in (("shape", list(SHAPES)), ("colour", list(COLOURS))):
        others = [option for option in options if option != getattr(item, name)]
        other = replace(item, **{name: str(rng.choice(others))})
        changes.append(replace(claims, items=(other, *claims.items[1:])))
    if item.size is not None:
        other = replace(item, size="small" if item.size == "large" else "large")
        changes.append(replace(claims, items=(other, *claims.items[1:])))
    if claims.background is not None:
        others = [name for name in BACKGROUNDS if name != claims.background]
        changes.append(replace(claims, background=str(rng.choice(others))))
    if claims.place is not None:
        changes.append(replace(claims, place=("left" if claims.place[0] != "left" else "right", claims.place[1])))
    if claims.axis is not None:
        changes.append(replace(claims, items=claims.items[::-1]))
    return changes[int(rng.integers(len(changes)))]


def test_a_false_claim_is_found() -> None:
    rng = np.random.default_rng(12)
    missed = 0
    for _ in range(300):
        scene = sample_scene(rng)
        missed += not complaints(render(scene), _falsified(caption(rng, scene).claims, rng))
    assert missed <= 3


def test_an_empty_picture_shows_nothing() -> None:
    blank = np.full((64, 64, 3), 245, np.uint8)
    assert read_picture(blank).items == ()
    assert read_picture(blank).background == "white"


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="64"):
        complaints(np.zeros((32, 32, 3), np.uint8), Claims((), None))


def test_claims_that_fail_are_counted() -> None:
    """A pair on white: two items and the background are three claims, of which a picture may keep each."""
    rng = np.random.default_rng(5)
    scene = next(scene for scene in iter(lambda: sample_scene(rng), None) if len(scene.items) == 2)
    first, second = (ItemClaim(item.shape, item.colour, None) for item in scene.items)
    other = ItemClaim("square" if first.shape != "square" else "cross", first.colour, None)
    wrong_ground = next(name for name in BACKGROUNDS if name != scene.background)

    def failed(items: tuple[ItemClaim, ...], background: str | None) -> tuple[int, int]:
        claims = Claims(items, background, axis=scene.axis)
        return compare(render(scene), claims)[1], claims.count

    assert failed((first, second), scene.background) == (0, 3)
    assert failed((first, second), None) == (0, 2)
    assert failed((other, second), scene.background) == (1, 3)
    assert failed((other, second), wrong_ground) == (2, 3)
    one = Claims((first,), wrong_ground, place=("left", "top"))
    assert (compare(render(scene), one)[1], one.count) == (3, 3)  # two objects where one is claimed
