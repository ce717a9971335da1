"""Batches of scenes, each drawn from its own seed so that any step can be repeated."""

from __future__ import annotations

import numpy as np
import torch

from sdmobile.checkpoints.shapes64.captions import caption
from sdmobile.checkpoints.shapes64.scenes import Scene, render, sample_scene


def scene_batch(seed: int, step: int, batch: int) -> list[Scene]:
    """Returns the training scenes of one step."""
    rng = np.random.default_rng([seed, step])
    return [sample_scene(rng) for _ in range(batch)]


def to_tensor(images: list[np.ndarray]) -> torch.Tensor:
    """Returns uint8 [H, W, 3] pictures as float32 [N, 3, H, W] in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1.0


def picture_batch(seed: int, step: int, batch: int) -> torch.Tensor:
    """Returns the training pictures of one step, float32 [N, 3, 64, 64] in [-1, 1]."""
    return to_tensor([render(scene) for scene in scene_batch(seed, step, batch)])


def corpus(seed: int, count: int = 4000) -> list[str]:
    """Returns captions of training scenes, from which the tokenizer's merges are learned."""
    rng = np.random.default_rng([seed, 1])
    return [caption(rng, sample_scene(rng)).text for _ in range(count)]
