"""How well an inpainting checkpoint repaints a shape that a caption speaks of, and leaves the rest as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.checkpoints.shapes64.checker import compare
from sdmobile.checkpoints.shapes64.held_out import held_out_scenes
from sdmobile.checkpoints.shapes64.scenes import render
from sdmobile.families.edit import Edit
from sdmobile.training.evaluate import Judged, Obedience
from sdmobile.training.mobile.inpaint import shape_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdmobile.training.evaluate import Draw


def measure_inpainting(
    draw: Draw,
    count: int,
    settings: dict[str, Any],
    progress: Callable[[int, int], None],
) -> tuple[Obedience, float]:
    """Masks the first shape of renderings of held-out captions, repaints it and checks the picture.

    Args:
        draw: of `drawer`, for an inpainting model.
        count: number of held-out captions; caption i uses seed i.
        settings: what to note in the record.
        progress: called with pictures done and all.

    Returns:
        The share of captions obeyed by whole pictures, and the mean absolute difference in levels outside of the masks,
        to which the autoencoder alone contributes too.
    """
    judged: list[Judged] = []
    outside: list[float] = []
    for seed, (scene, caption) in enumerate(held_out_scenes(count)):
        picture, mask = render(scene), shape_mask(scene.items[0])
        pixels = picture.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
        image = draw(caption.text, seed, Edit(pixels, mask[None, None]))
        judged.append(Judged(caption, image, *compare(image, caption.claims)))
        outside.append(float(np.abs(image.astype(np.float64) - picture)[mask < 0.5].mean()))
        progress(len(judged), count)
    return Obedience(judged, settings), float(np.mean(outside))
