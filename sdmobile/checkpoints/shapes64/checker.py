"""Reads background, shapes, colours, sizes and places from pixels, and judges whether a caption was obeyed.

It knows the palette and the names of the shapes but shares no code with the renderer: shapes are told apart by how
much of their bounding box, and of its corners, they fill.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdmobile.checkpoints.shapes64.scenes import BACKGROUNDS, COLOURS, IMAGE_SIZE

if TYPE_CHECKING:
    from sdmobile.checkpoints.shapes64.captions import Claims, ItemClaim

FOREGROUND_DISTANCE = 45.0  # Euclidean in RGB; every object colour is at least 115 from every background
MIN_AREA = 25  # pixels; a small cross covers about 170
LARGE_SIDE = 22.0  # pixels, half-way between the sides of small (≤ 19) and large (≥ 25) shapes
CORNER = 0.25  # side of a corner cell, as a share of the bounding box
# Share covered of the bounding box, of its two upper corner cells and of its two lower ones: areas of the ideal shapes.
SHAPE_FEATURES = {
    "circle": (0.785, 0.47, 0.47),
    "square": (1.0, 1.0, 1.0),
    "triangle": (0.5, 0.0, 0.77),
    "cross": (0.58, 0.0, 0.0),
}


@dataclass(frozen=True)
class Seen:
    """One object found in a picture; the centre is that of its bounding box, in pixels."""

    shape: str
    colour: str
    size: str
    x: float
    y: float


@dataclass(frozen=True)
class Reading:
    """What a picture shows."""

    background: str
    items: tuple[Seen, ...]


def _nearest(colour: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str:
    names = list(palette)
    distances = [float(np.linalg.norm(colour - np.array(palette[name]))) for name in names]
    return names[int(np.argmin(distances))]


def _read_shape(mask: np.ndarray) -> str:
    height, width = mask.shape
    rows, columns = math.ceil(height * CORNER), math.ceil(width * CORNER)
    upper = (mask[:rows, :columns].mean() + mask[:rows, -columns:].mean()) / 2
    lower = (mask[-rows:, :columns].mean() + mask[-rows:, -columns:].mean()) / 2
    seen = np.array([mask.mean(), upper, lower])
    return min(SHAPE_FEATURES, key=lambda name: float(np.linalg.norm(seen - np.array(SHAPE_FEATURES[name]))))


def read_picture(image: np.ndarray) -> Reading:
    """Reads a picture.

    Args:
        image: uint8 [64, 64, 3], RGB.

    Returns:
        The background (the palette entry nearest to the border's median) and every object of at least 25 pixels.
    """
    from scipy import ndimage

    pixels = image.astype(np.float64)
    ground, distance = _from_ground(pixels)
    labels, count = ndimage.label(distance > FOREGROUND_DISTANCE)  # pyright: ignore[reportGeneralTypeIssues]
    areas = [labels == index for index in range(1, count + 1)]
    items = [_read_item(pixels, distance, area) for area in areas if area.sum() >= MIN_AREA]
    return Reading(_nearest(ground, BACKGROUNDS), tuple(items))


def outline(image: np.ndarray) -> np.ndarray:
    """Returns where a picture shows anything but its background.

    The edge runs where the colour is half-way between the background and the middle one of what is not background.

    Args:
        image: uint8 [64, 64, 3], RGB.

    Returns:
        Booleans, [64, 64].
    """
    _, distance = _from_ground(image.astype(np.float64))
    found = distance > FOREGROUND_DISTANCE
    return found & (distance > 0.5 * np.median(distance[found])) if found.any() else found


def _from_ground(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the colour of the background, the border's median, and every pixel's distance from it."""
    border = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[:, :2].reshape(-1, 3)])
    ground = np.median(border, axis=0)
    return ground, np.linalg.norm(pixels - ground, axis=-1)


def _read_item(pixels: np.ndarray, distance: np.ndarray, area: np.ndarray) -> Seen:
    """Reads one object; its outline runs where the colour is half-way between object and background."""
    core = area & (distance >= np.median(distance[area]))
    outline = area & (distance > 0.5 * np.median(distance[core]))
    ys, xs = np.nonzero(outline)
    mask = outline[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    return Seen(
        shape=_read_shape(mask),
        colour=_nearest(np.median(pixels[core], axis=0), COLOURS),
        size="large" if max(mask.shape) > LARGE_SIDE else "small",
        x=(xs.min() + xs.max() + 1) / 2,
        y=(ys.min() + ys.max() + 1) / 2,
    )


def _cell(position: float, low: str, high: str) -> str:
    # The renderer's cells are centred at 18, 32 and 46 pixels; the borders lie half-way.
    return low if position < 25 else high if position > 39 else "middle"


def cell_of(seen: Seen) -> tuple[str, str]:
    """Returns the cell that an object is in, such as ("left", "top")."""
    return _cell(seen.x, "left", "right"), _cell(seen.y, "top", "bottom")


def _matches(seen: Seen, claim: ItemClaim) -> bool:
    return seen.shape == claim.shape and seen.colour == claim.colour and (claim.size is None or seen.size == claim.size)


def complaints(image: np.ndarray, claims: Claims) -> list[str]:
    """Returns what is wrong with a picture, in words: the first part of what `compare` returns."""
    return compare(image, claims)[0]


def compare(image: np.ndarray, claims: Claims) -> tuple[list[str], int]:
    """Compares a picture with a caption's claims.

    Args:
        image: uint8 [64, 64, 3], RGB.
        claims: what the caption says.

    Returns:
        What is wrong, in words, an empty list where the caption is obeyed; and how many of `claims.count` claims fail:
        every one on an item or its place, where the number of objects is wrong.
    """
    if image.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ValueError(f"the checker reads pictures of shape (64, 64, 3), got {image.shape}")
    reading = read_picture(image)
    wrong: list[str] = []
    if claims.background is not None and reading.background != claims.background:
        wrong.append(f"background {reading.background}, not {claims.background}")
    if len(reading.items) != len(claims.items):
        failed = len(wrong) + len(claims.items) + (claims.place is not None)
        return [*wrong, f"{len(reading.items)} objects, not {len(claims.items)}"], failed
    seen = list(reading.items)
    if claims.axis is not None:
        seen.sort(key=lambda item: item.x if claims.axis == "x" else item.y)
    for found, claim in zip(seen, claims.items, strict=True):
        if not _matches(found, claim):
            wrong.append(f"{found.size} {found.colour} {found.shape}, not {claim}")
    if claims.place is not None:
        cell = cell_of(seen[0])
        if cell != claims.place:
            wrong.append(f"at {cell}, not {claims.place}")
    return wrong, len(wrong)
