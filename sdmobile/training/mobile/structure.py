"""Stage "structure": the mobile UNet from nothing, by the noise that the UNet of `shapes-64` predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sdmobile.models.unet import MobileUNet2DConditionModel
from sdmobile.training.mobile.config import unet_config
from sdmobile.training.mobile.student import finished, keep, student_trainer

if TYPE_CHECKING:
    from sdmobile.training.config import Stage
    from sdmobile.training.loop import Progress
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.world import World

NAME = "structure"


def train_structure(config: MobileConfig, world: World, progress: Progress) -> Any:
    """Trains the mobile UNet to the teacher's prediction, or returns the finished one.

        L = mean w(t)·‖ε_S(x_t, t, c) − ε_T(x_t, t, c)‖²

    A teacher's prediction is a less noisy target than ε itself. w(t) are the weights that the teacher was trained with.

    Args:
        config: the run.
        world: teacher and data.
        progress: called with step, steps and loss.

    Returns:
        The UNet with averaged weights, in evaluation mode.
    """
    if (unet := finished(config, NAME)) is not None:
        return unet
    torch.manual_seed(config.seed)
    return fit_to_teacher(config, world, progress, NAME, MobileUNet2DConditionModel(**unet_config()), config.structure)


def fit_to_teacher(
    config: MobileConfig, world: World, progress: Progress, name: str, student: Any, stage: Stage
) -> Any:
    """Trains a UNet to the teacher's prediction by the loss above and keeps it.

    Args:
        config: the run.
        world: teacher and data.
        progress: called with step, steps and loss.
        name: of the stage.
        student: a MobileUNet2DConditionModel that predicts noise.
        stage: steps, batch and learning rate.

    Returns:
        The UNet with averaged weights, in evaluation mode.
    """
    trainer = student_trainer(config, name, student, stage)

    def loss_at(step: int) -> torch.Tensor:
        batch = world.batch((config.seed, 31, step), stage.batch, config.dropout)
        noisy, timesteps, states = (trainer.share(x) for x in (batch.noisy, batch.timesteps, batch.states))
        with torch.no_grad():
            target = world.unet(noisy, timesteps, states, return_dict=False)[0]
        return world.loss(trainer.module(noisy, timesteps, states), target, timesteps)

    trainer.run(loss_at, config.output / f"log-{name}.jsonl", config.save_every, progress)
    return keep(config, name, trainer)
