"""Stage "inpaint": the base with a widened first convolution, which sees a mask and the rest of the picture.

    L = mean w(t)·‖ε − ε_θ([x_t, m, E((1 − M)·I)], t, c)‖²

ε_θ begins as the UNet that stage "relu" leaves; the columns of the new channels are zero, so that step 0 predicts what
the base does (Rombach et al., arXiv 2112.10752). Half of the masks are random rectangles, half the boxes of shapes.

What the stage learned is carried over to the UNets of later stages by adding the difference of the weights
(`carried_over`); nothing is trained again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdmobile.checkpoints.shapes64.scenes import IMAGE_SIZE, render
from sdmobile.models.unet import MobileUNet2DConditionModel
from sdmobile.training.config import SCALING_FACTOR
from sdmobile.training.data import to_tensor
from sdmobile.training.mobile.recover import train_base
from sdmobile.training.mobile.student import finished, keep, student_trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sdmobile.checkpoints.shapes64.scenes import Item, Scene
    from sdmobile.training.loop import Progress
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.world import World

NAME = "inpaint"
MARGIN = 3.0
"""Pixels around a shape's box that are repainted too."""
_SIDES = (12, 49)  # of random rectangles, in pixels


def widened(unet: Any) -> Any:
    """Returns the UNet with 2·C + 1 input channels; what the new ones bring is multiplied by zero."""
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    wider: Any = MobileUNet2DConditionModel(**{**config, "in_channels": 2 * config["in_channels"] + 1})
    weights = unet.state_dict()
    new = torch.zeros_like(wider.conv_in.weight)
    new[:, : config["in_channels"]] = weights["conv_in.weight"]
    wider.load_state_dict({**weights, "conv_in.weight": new})
    return wider.eval()


@torch.no_grad()
def carried_over(trained: Any, base: Any, later: Any) -> Any:
    """Returns a later stage's UNet that repaints, W = W_later + (W_trained − W_base).

    As task arithmetic has it (Ilharco et al., arXiv 2212.04089).

    Args:
        trained: the inpainting UNet that began as the base.
        base: the UNet of stage "relu".
        later: a UNet that began as the base too, of fewer steps.
    """
    unet = widened(later)
    before, after = widened(base).state_dict(), trained.state_dict()
    for name, weight in unet.state_dict().items():
        weight += after[name] - before[name]
    return unet


def shape_mask(item: Item, margin: float = MARGIN) -> np.ndarray:
    """Returns the box of a shape with a margin, float32 [64, 64], 1 inside."""
    mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.float32)
    low, high = ([round(x + way * (item.radius + margin)) for x in (item.y, item.x)] for way in (-1, 1))
    mask[max(0, low[0]) : high[0], max(0, low[1]) : high[1]] = 1
    return mask


def training_masks(rng: np.random.Generator, scenes: Sequence[Scene]) -> np.ndarray:
    """Returns a mask of each scene, float32 [N, 1, 64, 64]: a rectangle or the box of one of its shapes."""
    masks = np.zeros((len(scenes), 1, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for mask, scene in zip(masks, scenes, strict=True):
        if rng.random() < 0.5:
            mask[0] = shape_mask(scene.items[int(rng.integers(len(scene.items)))], float(rng.uniform(0, 2 * MARGIN)))
            continue
        height, width = rng.integers(*_SIDES, 2)
        top, left = (int(rng.integers(IMAGE_SIZE - side + 1)) for side in (height, width))
        mask[0, top : top + height, left : left + width] = 1
    return masks


@torch.no_grad()
def beside(world: World, scenes: Sequence[Scene], masks: np.ndarray) -> Tensor:
    """Returns what the UNet takes after noisy latents: mask and latents of the masked pictures, [N, C + 1, h, w]."""
    mask = torch.from_numpy(masks)
    pictures = to_tensor([render(scene) for scene in scenes]) * (mask < 0.5)
    latents = world.vae.encode(pictures).latent_dist.mean * SCALING_FACTOR
    cell = IMAGE_SIZE // latents.shape[-1]
    return torch.cat([mask[..., ::cell, ::cell], latents], dim=1)


def train_inpaint(config: MobileConfig, world: World, progress: Progress) -> Any:
    """Trains the inpainting UNet, or returns the finished one.

    Args:
        config: the run.
        world: data.
        progress: called with step, steps and loss.
    """
    if (unet := finished(config, NAME)) is not None:
        return unet
    trainer = student_trainer(config, NAME, widened(train_base(config, world, progress)), config.inpaint)

    def loss_at(step: int) -> Tensor:
        batch = world.batch((config.seed, 42, step), config.inpaint.batch, config.dropout)
        masks = training_masks(np.random.default_rng([config.seed, 43, step]), batch.scenes)
        sample = torch.cat([batch.noisy, beside(world, batch.scenes, masks)], dim=1)
        rows = sample, batch.timesteps, batch.states, batch.noise
        sample, timesteps, states, noise = (trainer.share(x) for x in rows)
        return world.loss(trainer.module(sample, timesteps, states), noise, timesteps)

    trainer.run(loss_at, config.output / f"log-{NAME}.jsonl", config.save_every, progress)
    return keep(config, NAME, trainer)
