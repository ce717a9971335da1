"""Stage "guidance": the guided prediction of `shapes-64` by the caption's row alone, as v.

    ε_w = ε_T(∅) + w·(ε_T(c) − ε_T(∅)),   v_w = (ε_w − σ x_t)/α        Meng et al., arXiv 2210.03142, with one fixed w
    L = mean w(t)·ᾱ·‖v_S − v_w‖²

w(t) are the weights of the noise's error that `shapes-64` was trained with, and ‖Δε‖² = ᾱ·‖Δv‖². From here on the UNet
predicts v, from which the picture follows without a division by a small α: x₀ = α x_t − σ v.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sdmobile.models.unet import declare
from sdmobile.training.mobile.config import GUIDANCE_SCALE
from sdmobile.training.mobile.relu import train_relu
from sdmobile.training.mobile.student import copy_of, finished, keep, student_trainer

if TYPE_CHECKING:
    from torch import Tensor

    from sdmobile.training.loop import Progress
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.world import World

NAME = "guidance"


@torch.no_grad()
def guided_noise(world: World, noisy: Tensor, timesteps: Tensor, states: Tensor, empty: Tensor) -> Tensor:
    """Returns ε_w of the teacher, [N, C, h, w].

    Args:
        world: has the teacher.
        noisy, timesteps: x_t and t.
        states, empty: text features of the captions, [N, L, D], and of the empty prompt, [1, L, D].
    """
    both = torch.cat([empty.expand_as(states), states])
    plain, said = world.unet(noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), both, return_dict=False)[0].chunk(2)
    return plain + GUIDANCE_SCALE * (said - plain)


def train_guidance(config: MobileConfig, world: World, progress: Progress) -> Any:
    """Distils the guidance into the UNet with ReLU attention, or returns the finished one.

    Args:
        config: the run.
        world: teacher and data.
        progress: called with step, steps and loss.
    """
    if (unet := finished(config, NAME)) is not None:
        return unet
    student = copy_of(train_relu(config, world, progress))
    declare(student, distilled_guidance_scale=GUIDANCE_SCALE)
    trainer = student_trainer(config, NAME, student, config.guidance)
    empty = world.encode([""]).to(trainer.accelerator.device)
    cumulative = world.alphas_cumprod
    weights = world.weights * cumulative / (world.weights * cumulative).mean()

    def loss_at(step: int) -> Tensor:
        batch = world.batch((config.seed, 35, step), config.guidance.batch, 0.0)
        noisy, timesteps, states = (trainer.share(x) for x in (batch.noisy, batch.timesteps, batch.states))
        alpha, sigma = world.scales(timesteps)
        target = (guided_noise(world, noisy, timesteps, states, empty) - sigma * noisy) / alpha
        error = (trainer.module(noisy, timesteps, states).float() - target).square().mean(dim=(1, 2, 3))
        return (weights.to(error.device)[timesteps] * error).mean()

    trainer.run(loss_at, config.output / f"log-{NAME}.jsonl", config.save_every, progress)
    return keep(config, NAME, trainer)
