"""Stage "progressive": half as many steps, twice: 8 → 4 → 2.

    z' = α' x̂_T(z) + σ' ε̂_T(z)         two steps of the teacher, DDIM
    z'' = α'' x̂_T(z') + σ'' ε̂_T(z')
    x* = (z'' − (σ''/σ) z) / (α'' − (σ''/σ) α)         what one step of the student must predict to get there
    L = mean max(SNR, 1)·‖x̂_S(z) − x*‖²

Salimans and Ho, arXiv 2202.00512, equations 33 to 36, with v-prediction: x̂ = α z − σ v, ε̂ = σ z + α v. Timesteps are
"trailing" as in Diffusers: 999 first, and after the last step the latent is clean.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch

from sdmobile.training.mobile.guidance import train_guidance
from sdmobile.training.mobile.student import copy_of, finished, keep, student_trainer

if TYPE_CHECKING:
    from torch import Tensor

    from sdmobile.training.loop import Progress
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.world import World

NAME = "progressive"
FIRST = 8
"""Steps of the first teacher."""
_CLEAN = -1


def trailing(steps: int, count: int = 1000) -> list[int]:
    """Returns the timesteps of so many steps, highest first: 999, 749, 499, 249 for four."""
    return [round(count - index * count / steps) - 1 for index in range(steps)]


def ddim_step(world: World, v: Tensor, noisy: Tensor, timesteps: Tensor, following: Tensor) -> Tensor:
    """Returns the latent at the following timestep, which may be -1 for clean, by DDIM without noise.

    Args:
        world: has the noise schedule.
        v: prediction, [N, C, h, w].
        noisy: latent at `timesteps`, [N, C, h, w].
        timesteps, following: int64 [N].
    """
    alpha, sigma = world.scales(timesteps)
    clean, noise = alpha * noisy - sigma * v, sigma * noisy + alpha * v
    after, noise_after = _scales(world, following)
    return after * clean + noise_after * noise


def target_of(world: World, noisy: Tensor, timesteps: Tensor, landed: Tensor, following: Tensor) -> Tensor:
    """Returns x*: the clean latent whose DDIM step from `noisy` ends at `landed`."""
    alpha, sigma = world.scales(timesteps)
    after, noise_after = _scales(world, following)
    ratio = noise_after / sigma
    return (landed - ratio * noisy) / (after - ratio * alpha)


def _scales(world: World, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = world.scales(timesteps.clamp(min=0))
    clean = (timesteps == _CLEAN).reshape(-1, 1, 1, 1)
    return torch.where(clean, torch.ones_like(alpha), alpha), torch.where(clean, torch.zeros_like(sigma), sigma)


def halve(config: MobileConfig, world: World, teacher: Any, steps: int, progress: Progress) -> Any:
    """Trains a student of so many steps from a teacher of twice as many.

    Args:
        config: the run.
        world: data.
        teacher: predicts v.
        steps: of the student.
        progress: called with step, steps and loss.
    """
    name = f"{NAME}-{steps}"
    if (unet := finished(config, name)) is not None:
        return unet
    trainer = student_trainer(config, name, copy_of(teacher), config.halving)
    teacher.to(trainer.accelerator.device)
    fine = torch.tensor([*trailing(2 * steps), _CLEAN])

    def loss_at(step: int) -> Tensor:
        size = config.halving.batch
        batch = world.batch((config.seed, 36, steps, step), size, 0.0)
        places = 2 * torch.arange(size).remainder(steps)
        first, middle, last = (trainer.share(fine[places + ahead]) for ahead in range(3))
        clean, noise, states = (trainer.share(x) for x in (batch.clean, batch.noise, batch.states))
        noisy = world.diffuse(clean, noise, first)
        with torch.no_grad():
            half = ddim_step(world, teacher(noisy, first, states, return_dict=False)[0], noisy, first, middle)
            landed = ddim_step(world, teacher(half, middle, states, return_dict=False)[0], half, middle, last)
            target = target_of(world, noisy, first, landed, last)
        alpha, sigma = world.scales(first)
        drawn = alpha * noisy - sigma * trainer.module(noisy, first, states).float()
        weight = (alpha / sigma).square().clamp(min=1.0)
        return (weight * (drawn - target).square()).mean()

    trainer.run(loss_at, config.output / f"log-{name}.jsonl", config.save_every, progress)
    return keep(config, name, trainer)


def train_progressive(config: MobileConfig, world: World, progress: Progress) -> Any:
    """Returns the UNet of two steps; that of four is kept beside it.

    Args:
        config: the run.
        world: data.
        progress: called with step, steps and loss.
    """
    four = halve(config, world, train_guidance(config, world, progress), FIRST // 2, progress)
    return halve(config, world, four, FIRST // 4, progress)


@torch.no_grad()
def draw_latents(world: World, predict: Any, noise: Tensor, states: Tensor, steps: int) -> Tensor:
    """Returns the latents that trailing DDIM makes of noise, [N, C, h, w].

    Args:
        world: has the noise schedule.
        predict: v of (x, t, features).
        noise: [N, C, h, w].
        states: text features, [N, L, D].
        steps: calls.
    """
    latent, times = noise, [*trailing(steps), _CLEAN]
    for now, following in itertools.pairwise(times):
        here, there = (torch.full((len(latent),), t, device=latent.device) for t in (now, following))
        latent = ddim_step(world, predict(latent, here, states), latent, here, there)
    return latent
