"""Stage "regression": one step by regression on pairs of noise and what eight steps make of it.

    L = mean |x̂_S(z, 999, c) − x|,   x = DDIM_T(z, c)

T is the UNet of stage "guidance": one row of 236 M multiplications for the two of 314 M of `shapes-64`.

As the first stage of DMD (Yin et al., arXiv 2311.18828) and the last of InstaFlow (Liu et al., arXiv 2309.06380).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdmobile.basics.files import whole_file
from sdmobile.training.mobile.guidance import train_guidance
from sdmobile.training.mobile.progressive import FIRST, draw_latents, train_progressive
from sdmobile.training.mobile.student import copy_of, finished, keep, student_trainer

if TYPE_CHECKING:
    from torch import Tensor

    from sdmobile.training.loop import Progress
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.world import World

NAME = "regression"
LAST = 999
_PART = 100


def noise_of_pair(config: MobileConfig, index: int) -> Tensor:
    """Returns z of a pair, [C, h, w]."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + 7_000_000 + index)
    return torch.randn(4, 16, 16, generator=generator)


def caption_of_pair(config: MobileConfig, world: World, index: int) -> tuple[int, str]:
    """Returns a training scene's index and one of its captions, which is c of a pair."""
    rng = np.random.default_rng([config.seed, 37, index])
    chosen = rng.integers(len(world.latents.scenes), size=1)
    return int(chosen[0]), world.texts(rng, chosen, 0.0)[0]


def make_pairs(config: MobileConfig, world: World, progress: Progress) -> Tensor:
    """Returns the latents of eight steps, float32 [pairs, C, h, w]; a stopped run goes on from `<output>/pairs.pt`."""
    path = config.output / "pairs.pt"
    drawn: Tensor = torch.load(path, weights_only=True) if path.exists() else torch.empty(0, 4, 16, 16)
    teacher = train_guidance(config, world, progress)
    device = next(world.unet.parameters()).device
    teacher.to(device)

    def predict(latent: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        return teacher(latent, timesteps, states, return_dict=False)[0]

    while len(drawn) < config.pairs:
        start, stop = len(drawn), min(len(drawn) + _PART, config.pairs)
        noise = torch.stack([noise_of_pair(config, index) for index in range(start, stop)]).to(device)
        states = world.encode([caption_of_pair(config, world, index)[1] for index in range(start, stop)]).to(device)
        drawn = torch.cat([drawn, draw_latents(world, predict, noise, states, FIRST).cpu()])
        if stop % (10 * _PART) == 0 or stop == config.pairs:
            with whole_file(path) as partial:
                torch.save(drawn, partial)
        progress(stop, config.pairs, 0.0)
    return drawn[: config.pairs]


def train_regression(config: MobileConfig, world: World, progress: Progress) -> Any:
    """Trains the UNet of two steps to make the teacher's picture in one call, or returns the finished one.

    Args:
        config: the run.
        world: teacher.
        progress: called with step, steps and loss.
    """
    if (unet := finished(config, NAME)) is not None:
        return unet
    start = train_progressive(config, world, progress)
    pairs = make_pairs(config, world, progress)
    trainer = student_trainer(config, NAME, copy_of(start), config.regression)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([config.seed, 38, step])
        chosen = rng.choice(len(pairs), config.regression.batch, replace=False)
        texts = [caption_of_pair(config, world, index)[1] for index in chosen]
        noise = trainer.share(torch.stack([noise_of_pair(config, int(index)) for index in chosen]))
        states, target = trainer.share(world.encode(texts)), trainer.share(pairs[torch.from_numpy(chosen)])
        timesteps = torch.full((len(noise),), LAST, device=noise.device)
        alpha, sigma = world.scales(timesteps)
        drawn = alpha * noise - sigma * trainer.module(noise, timesteps, states).float()
        return (drawn - target).abs().mean()

    trainer.run(loss_at, config.output / f"log-{NAME}.jsonl", config.save_every, progress)
    return keep(config, NAME, trainer)
