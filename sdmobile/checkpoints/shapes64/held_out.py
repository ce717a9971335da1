"""Captions that training never saw."""

from __future__ import annotations

import numpy as np

from sdmobile.checkpoints.shapes64.captions import Caption, caption
from sdmobile.checkpoints.shapes64.scenes import Scene, sample_scene

HELD_OUT_SEED = 7_000_000


def held_out_captions(count: int, seed: int = HELD_OUT_SEED) -> list[Caption]:
    """Returns prompts for combinations that training never saw.

    Args:
        count: how many.
        seed: another seed gives other prompts.
    """
    return [said for _, said in held_out_scenes(count, seed)]


def held_out_scenes(count: int, seed: int = HELD_OUT_SEED) -> list[tuple[Scene, Caption]]:
    """Returns scenes of combinations that training never saw, each with its prompt; as `held_out_captions`."""
    rng = np.random.default_rng(seed)
    scenes = (sample_scene(rng, held_out=True) for _ in range(count))
    return [(scene, caption(rng, scene)) for scene in scenes]
