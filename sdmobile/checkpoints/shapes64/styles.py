"""A style that a LoRA can learn and a number can tell: every shape has a round hole in its middle.

The hole is small enough for the checker, which tells shapes by the share of their box that they fill, and large enough
for the autoencoder, whose latent cells are of 4×4 pixels. Captions do not speak of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdmobile.checkpoints.shapes64.checker import read_picture
from sdmobile.checkpoints.shapes64.scenes import BACKGROUNDS, COLOURS, IMAGE_SIZE, render

if TYPE_CHECKING:
    from sdmobile.checkpoints.shapes64.scenes import Scene

HOLE = 0.3
"""Radius of the hole as a share of the shape's."""


def render_hollow(scene: Scene) -> np.ndarray:
    """Draws a scene in the style: I·(1 − h) + background·h, h the holes' coverage with one pixel of anti-aliasing.

    Args:
        scene: what to draw.

    Returns:
        uint8 array [64, 64, 3], RGB.
    """
    axis = np.arange(IMAGE_SIZE, dtype=np.float64) + 0.5
    ys, xs = np.meshgrid(axis, axis, indexing="ij")
    image, ground = render(scene).astype(np.float64), np.array(BACKGROUNDS[scene.background], np.float64)
    for item in scene.items:
        distance = np.hypot(xs - item.x, ys - item.y) - HOLE * item.radius
        hole = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
        image = image * (1 - hole) + ground * hole
    return np.rint(image).astype(np.uint8)


def hollowness(image: np.ndarray) -> float:
    """Returns how far a picture has the style: 0 for shapes that are full, 1 for holes.

        mean over shapes of ⟨p − c, b − c⟩/‖b − c‖²

    p is the mean of the four pixels in the middle, c the shape's colour and b the background's.

    Args:
        image: uint8 [64, 64, 3], RGB.

    Returns:
        The mean; 0 where no shape is found.
    """
    reading = read_picture(image)
    ground = np.array(BACKGROUNDS[reading.background], np.float64)
    shares: list[float] = []
    for item in reading.items:
        x, y = round(item.x), round(item.y)
        middle = image[max(0, y - 1) : y + 1, max(0, x - 1) : x + 1].reshape(-1, 3).mean(axis=0)
        colour = np.array(COLOURS[item.colour], np.float64)
        across = ground - colour
        shares.append(float((middle - colour) @ across / (across @ across)))
    return float(np.mean(shares)) if shares else 0.0
