"""The world of `shapes-64`: one or two flat shapes on a plain background, and how it is drawn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE_SIZE = 64
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 35, 40),
    "green": (40, 165, 60),
    "blue": (40, 75, 220),
    "yellow": (245, 220, 40),
    "purple": (145, 45, 185),
    "orange": (245, 130, 25),
    "cyan": (50, 205, 225),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "black": (18, 18, 18),
    "gray": (165, 165, 165),
    "pink": (250, 185, 205),
}
RADII = {"small": (8.5, 9.5), "large": (12.5, 13.2)}  # half the side of the bounding box, in pixels
GRID = {"left": 18.0, "top": 18.0, "middle": 32.0, "right": 46.0, "bottom": 46.0}
PAIR = (16.0, 48.0)  # centres of two objects side by side: two large ones keep a gap of 4 pixels
ARM = 0.35  # half the width of a cross's arm, as a share of its radius
HELD_OUT_SHARE = 10  # one combination in ten is never trained on


@dataclass(frozen=True)
class Item:
    """One shape: what it is and where, in pixels from the top left corner."""

    shape: str
    colour: str
    size: str
    radius: float
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    """A background and one or two items.

    `place` is the cell of a single item, such as ("left", "top"); `axis` is "x" where two items stand side by side
    (first left, second right) and "y" where they stand one above the other (first above).
    """

    background: str
    items: tuple[Item, ...]
    place: tuple[str, str] | None = None
    axis: str | None = None

    def combination(self) -> str:
        """Returns the key that decides whether the scene is held out: shapes, colours and arrangement."""
        things = "+".join(f"{item.colour} {item.shape}" for item in self.items)
        return f"{things}@{self.place or self.axis}"

    def held_out(self) -> bool:
        """Returns whether this combination belongs to the test set (a hash, so that it never changes)."""
        return hashlib.sha256(self.combination().encode()).digest()[0] * HELD_OUT_SHARE // 256 == 0


def _item(rng: np.random.Generator, x: float, y: float) -> Item:
    size = str(rng.choice(list(RADII)))
    return Item(
        shape=str(rng.choice(SHAPES)),
        colour=str(rng.choice(list(COLOURS))),
        size=size,
        radius=float(rng.uniform(*RADII[size])),
        x=x,
        y=y,
    )


def _single(rng: np.random.Generator, background: str) -> Scene:
    column = str(rng.choice(["left", "middle", "right"]))
    row = str(rng.choice(["top", "middle", "bottom"]))
    x, y = (GRID[name] + rng.uniform(-2, 2) for name in (column, row))
    return Scene(background, (_item(rng, float(x), float(y)),), place=(column, row))


def _pair(rng: np.random.Generator, background: str) -> Scene:
    axis = str(rng.choice(["x", "y"]))
    items: list[Item] = []
    for centre in PAIR:
        along, across = float(centre + rng.uniform(-1, 1)), float(32 + rng.uniform(-8, 8))
        items.append(_item(rng, *((along, across) if axis == "x" else (across, along))))
    return Scene(background, (items[0], items[1]), axis=axis)


def sample_scene(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """Draws a scene from the training or the held-out combinations.

    Args:
        rng: source of randomness; the same state gives the same scene.
        held_out: True for the combinations that training never sees.

    Returns:
        A scene whose two items, if there are two, differ in shape or colour.
    """
    while True:
        background = str(rng.choice(list(BACKGROUNDS)))
        scene = _pair(rng, background) if rng.random() < 0.55 else _single(rng, background)
        kinds = {(item.shape, item.colour) for item in scene.items}
        if len(kinds) == len(scene.items) and scene.held_out() == held_out:
            return scene


def _circle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.hypot(x, y) - r


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _square(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return _box(x, y, r, r)


def _triangle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    # Apex (0, -r), base corners (±r, r): the sloping edge has the unit normal (2, -1)/√5.
    return np.maximum(y - r, (2 * np.abs(x) - y - r) / np.sqrt(5.0))


def _cross(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.minimum(_box(x, y, r, ARM * r), _box(x, y, ARM * r, r))


_DISTANCE: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}


def render(scene: Scene) -> np.ndarray:
    """Draws a scene with one pixel of anti-aliasing: coverage = clip(½ − signed distance, 0, 1).

    Args:
        scene: what to draw.

    Returns:
        uint8 array [64, 64, 3], RGB.
    """
    image = np.broadcast_to(np.array(BACKGROUNDS[scene.background], np.float64), (IMAGE_SIZE, IMAGE_SIZE, 3)).copy()
    for item in scene.items:
        cover = _coverage(item)
        image = image * (1 - cover) + np.array(COLOURS[item.colour], np.float64) * cover
    return np.rint(image).astype(np.uint8)


def silhouette(scene: Scene) -> np.ndarray:
    """Draws where a scene's shapes are, white on black, whatever their colours.

    Args:
        scene: what to draw.

    Returns:
        uint8 array [64, 64, 3], the three channels alike.
    """
    cover = np.maximum.reduce([_coverage(item) for item in scene.items])
    return np.rint(255 * np.repeat(cover, 3, axis=-1)).astype(np.uint8)


def _coverage(item: Item) -> np.ndarray:
    """Returns the share of every pixel that an item covers, [64, 64, 1]."""
    axis = np.arange(IMAGE_SIZE, dtype=np.float64) + 0.5
    ys, xs = np.meshgrid(axis, axis, indexing="ij")
    distance = _DISTANCE[item.shape](xs - item.x, ys - item.y, item.radius)
    return np.clip(0.5 - distance, 0.0, 1.0)[..., None]
