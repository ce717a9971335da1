"""Captions of a scene in several phrasings, each with the claims that it makes.

No punctuation and lower case only: Apple's Swift tokenizer splits at spaces, Hugging Face's at punctuation too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from sdmobile.checkpoints.shapes64.scenes import Item, Scene


@dataclass(frozen=True)
class ItemClaim:
    """What a caption says of one item; None where it says nothing."""

    shape: str
    colour: str
    size: str | None


@dataclass(frozen=True)
class Claims:
    """Everything that a picture must show to obey a caption; None where the caption is silent."""

    items: tuple[ItemClaim, ...]
    background: str | None
    place: tuple[str, str] | None = None
    axis: str | None = None

    @property
    def count(self) -> int:
        """Number of claims: one per item, one each on background and place where the caption speaks of them."""
        return len(self.items) + (self.background is not None) + (self.place is not None)


@dataclass(frozen=True)
class Caption:
    """A prompt and what it claims."""

    text: str
    claims: Claims


_SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
_PLACES = {
    ("left", "top"): ("in the top left corner", "at the top left"),
    ("middle", "top"): ("at the top", "at the top center"),
    ("right", "top"): ("in the top right corner", "at the top right"),
    ("left", "middle"): ("on the left", "on the left side"),
    ("middle", "middle"): ("in the center", "in the middle"),
    ("right", "middle"): ("on the right", "on the right side"),
    ("left", "bottom"): ("in the bottom left corner", "at the bottom left"),
    ("middle", "bottom"): ("at the bottom", "at the bottom center"),
    ("right", "bottom"): ("in the bottom right corner", "at the bottom right"),
}
_SINGLE = (
    "{a} {place} on a {bg} background",
    "{a} on a {bg} background {place}",
    "a picture of {a} {place} with a {bg} background",
    "{bg} background with {a} {place}",
    "there is {a} {place} and the background is {bg}",
)
_BESIDE = (
    "{a} to the left of {b}",
    "{b} to the right of {a}",
    "{a} on the left and {b} on the right",
    "{b} on the right and {a} on the left",
)
_ABOVE = (
    "{a} above {b}",
    "{b} below {a}",
    "{b} under {a}",
    "{a} at the top and {b} at the bottom",
)
_FRAMES = (
    "{pair} on a {bg} background",
    "a picture of {pair} with a {bg} background",
    "{bg} background with {pair}",
    "there is {pair} and the background is {bg}",
)
_SILENT = ("{pair}", "a picture of {pair}", "there is {pair}")


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _phrase(rng: np.random.Generator, item: Item) -> tuple[str, ItemClaim]:
    size = item.size if rng.random() < 0.6 else None
    words = [] if size is None else [_pick(rng, _SIZE_WORDS[size])]
    words += [item.colour, item.shape]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words]), ItemClaim(item.shape, item.colour, size)


def _single(rng: np.random.Generator, scene: Scene) -> Caption:
    text, claim = _phrase(rng, scene.items[0])
    place = scene.place if rng.random() < 0.85 else None
    where = _pick(rng, _PLACES[place]) if place else ""
    background = scene.background if rng.random() < 0.8 else None
    template = _pick(rng, _SINGLE) if background else _pick(rng, _SILENT).replace("{pair}", "{a} {place}")
    sentence = " ".join(template.format(a=text, place=where, bg=background).split())
    return Caption(sentence, Claims((claim,), background, place=place))


def _pair(rng: np.random.Generator, scene: Scene) -> Caption:
    (first, claim_a), (second, claim_b) = (_phrase(rng, item) for item in scene.items)
    pair = _pick(rng, _BESIDE if scene.axis == "x" else _ABOVE).format(a=first, b=second)
    background = scene.background if rng.random() < 0.8 else None
    sentence = _pick(rng, _FRAMES if background else _SILENT).format(pair=pair, bg=background)
    return Caption(sentence, Claims((claim_a, claim_b), background, axis=scene.axis))


def caption(rng: np.random.Generator, scene: Scene) -> Caption:
    """Describes a scene in one of several phrasings, leaving some attributes out at random.

    Args:
        rng: source of randomness; the same state gives the same caption.
        scene: the scene to describe.

    Returns:
        The text and the claims it makes.
    """
    return _single(rng, scene) if len(scene.items) == 1 else _pair(rng, scene)
