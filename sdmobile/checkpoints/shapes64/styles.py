"""A style that a LoRA can learn and a number can tell: the background's light falls from top to bottom.

It is weak enough for the checker, which takes 45 levels from the background for an object: the ramp departs from the
palette by 16 levels at most. Captions do not speak of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sdmobile.checkpoints.shapes64.scenes import BACKGROUNDS, IMAGE_SIZE, render

if TYPE_CHECKING:
    from sdmobile.checkpoints.shapes64.scenes import Scene

TOP, BOTTOM = 4.0, -16.0
"""Levels added to the background in the first and in the last row; no entry of the palette leaves 0 to 255."""
_NEAR = 30.0  # Euclidean in RGB: farther from the background's colour is an object, or its edge


def render_shaded(scene: Scene) -> np.ndarray:
    """Draws a scene in the style: I + (1 − coverage)·ramp, the ramp linear in the row.

    Args:
        scene: what to draw.

    Returns:
        uint8 array [64, 64, 3], RGB.
    """
    # A rendering is linear in its background, so two of them tell how much of it every pixel shows.
    white, black = (render(replace(scene, background=name)).astype(np.float64) for name in ("white", "black"))
    shown = (white - black) / (np.array(BACKGROUNDS["white"]) - np.array(BACKGROUNDS["black"]))
    ramp = np.linspace(TOP, BOTTOM, IMAGE_SIZE)[:, None, None]
    return np.rint(render(scene) + shown * ramp).astype(np.uint8)


def shading(image: np.ndarray) -> float:
    """Returns how far a picture has the style: the slope of its background's light, 0 for a plain one, 1 in style.

    Args:
        image: uint8 [64, 64, 3], RGB.

    Returns:
        The least-squares slope of the mean of R, G and B over the rows, as a share of the style's; 0 where less than
        two rows show background.
    """
    pixels = image.astype(np.float64)
    border = np.concatenate([pixels[:, :2].reshape(-1, 3), pixels[:, -2:].reshape(-1, 3)])
    near = np.linalg.norm(pixels - np.median(border, axis=0), axis=-1) <= _NEAR
    rows, light = np.nonzero(near)[0].astype(np.float64), pixels.mean(axis=-1)[near]
    if len(np.unique(rows)) < 2:
        return 0.0
    rows -= rows.mean()
    return float((rows @ light) / (rows @ rows) * (IMAGE_SIZE - 1) / (BOTTOM - TOP))
