"""Pictures as an app hands them in and gets them back, and as the tensors of a program.

A program computes with the values of 8 bits, 0 to 255, as floats; a scale and a bias are operations of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.formats.mlprogram.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdmobile.formats.mlprogram.features import Feature

MODES = {"RGB": "RGB", "BGR": "RGB", "GRAYSCALE": "L", "GRAYSCALE_FLOAT16": "F"}
"""Layout of colours to the mode of the PIL image that is taken; pictures in colour are returned as RGBA."""


def from_picture(picture: Any, feature: Feature) -> np.ndarray:
    """Returns a PIL image as the array (1, channels, height, width) that a program takes, float32.

    Raises:
        InputError: it is no picture, or of another mode.
    """
    mode = MODES[feature.color or ""]
    if getattr(picture, "mode", None) != mode:
        found = getattr(picture, "mode", type(picture).__name__)
        raise InputError(f"Input '{feature.name}' must be a PIL image of mode {mode}", found, "Convert it")
    pixels = np.asarray(picture, np.float16 if mode == "F" else np.uint8).astype(np.float32)
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(channels[::-1] if feature.color == "BGR" else channels)[None]


def to_picture(array: np.ndarray, feature: Feature) -> Image:
    """Returns a result (1, channels, height, width) as a PIL image: RGBA, L or F.

    Values of 8 bits are clipped to 0 … 255 and rounded to nearest, halves to even.
    """
    from PIL import Image

    channels = array[0].astype(np.float32)
    if feature.color == "GRAYSCALE_FLOAT16":
        return Image.fromarray(channels[0].astype(np.float16).astype(np.float32))
    pixels = np.rint(np.clip(np.nan_to_num(channels), 0, 255)).astype(np.uint8)
    if len(pixels) == 1:
        return Image.fromarray(pixels[0])
    ordered = pixels[::-1] if feature.color == "BGR" else pixels
    opaque = np.full((1, *pixels.shape[1:]), 255, np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.concatenate([ordered, opaque]).transpose(1, 2, 0)))
