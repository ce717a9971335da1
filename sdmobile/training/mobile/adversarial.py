"""Stage "adversarial": one step by a diffusion GAN (UFOGen, Xu et al., arXiv 2311.09257).

    x̂ = G(x_t, t, c),   x'_{t'} ~ q(x_{t'} | x̂),   x_{t'} ~ q(x_{t'} | x₀),   t' = t − 250
    D:  mean max(0, 1 − D(x_{t'})) + mean max(0, 1 + D(x'_{t'})) + γ/2·‖∇_f D‖²        every 8th step, f the features
    G:  −η·mean D(x'_{t'}) + λ·mean min(SNR, 5)·‖x₀ − x̂‖² + mean |x − x̂|

The real and the made latent are compared after the forward process, not by its posterior, so that the marginals match
at x₀ and one step is enough. Half of a batch is pure noise z at the last timestep, which is where sampling starts;
there is no x₀ to reconstruct, but x, what the pairs of stage "regression" have for z (DMD's term, Yin et al., arXiv
2311.18828). Without it, and with η = 1, the colours drift: of 500 captions 402 were obeyed after 300 steps, 449 before
them. D is the frozen way down of the UNet of `shapes-64` with trained heads, as SF-V has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from sdmobile.training.mobile.pairs import LAST, caption_of_pair, make_pairs, noise_of_pair, train_regression
from sdmobile.training.mobile.pairs import NAME as START
from sdmobile.training.mobile.student import copy_of, finished, keep, student_trainer

if TYPE_CHECKING:
    from torch import Tensor

    from sdmobile.training.loop import Progress, Trainer
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.world import World

NAME = "adversarial"
GAP = 250
ADVERSARIAL, RECONSTRUCTION, PENALTY = 0.1, 1.0, 0.1
"""η, λ and γ."""
_PENALTY_EVERY = 8


class Heads(torch.nn.Module):
    """What is trained of the discriminator: one head per feature map, each conditioned on the text.

    Args:
        channels: of the feature maps.
        context: channels of the text features.
    """

    def __init__(self, channels: list[int], context: int) -> None:
        super().__init__()
        self.enter = torch.nn.ModuleList(torch.nn.Conv2d(count, 64, 1) for count in channels)
        self.norms = torch.nn.ModuleList(torch.nn.GroupNorm(16, count) for count in channels)
        self.text = torch.nn.ModuleList(torch.nn.Linear(context, 64) for _ in channels)
        self.leave = torch.nn.ModuleList(torch.nn.Conv2d(64, 1, 1) for _ in channels)

    def forward(self, features: list[Tensor], states: Tensor) -> Tensor:
        """Returns the mean of every map's logits, [N], from maps [N, C, h, w] and text features [N, L, D]."""
        said = states.mean(dim=1)
        logits = []
        for enter, norm, text, leave, x in zip(self.enter, self.norms, self.text, self.leave, features, strict=True):
            hidden = enter(functional.silu(norm(x))) + text(said)[:, :, None, None]
            logits.append(leave(functional.silu(hidden)).mean(dim=(1, 2, 3)))
        return torch.stack(logits).mean(dim=0)


class Features:
    """The frozen way down of a Diffusers UNet.

    Args:
        unet: a UNet2DConditionModel.
    """

    def __init__(self, unet: Any) -> None:
        self.unet = unet.requires_grad_(False)
        self.channels = [unet.config.block_out_channels[index] for index in (-2, -1, -1)]

    def __call__(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> list[Tensor]:
        """Returns the feature maps at the end of the last two levels and of the middle, highest resolution first."""
        unet = self.unet
        time = unet.time_embedding(unet.time_proj(timesteps).to(noisy.dtype))
        x, maps = unet.conv_in(noisy), []
        for block in unet.down_blocks:
            attends = getattr(block, "has_cross_attention", False)
            x, kept = block(x, time, encoder_hidden_states=states) if attends else block(x, time)
            maps.append(kept[len(block.resnets) - 1])
        return [*maps[-2:], unet.mid_block(x, time, encoder_hidden_states=states)]


@dataclass(frozen=True)
class Rows:
    """One step's examples.

    Args:
        states: text features, [N, L, D].
        times: t, int64 [N].
        noisy: z or x_t, [N, C, h, w].
        clean: x₀ of the scene that the caption is of, [N, C, h, w].
        target: x or x₀, [N, C, h, w].
        pure: whether the row is of a pair, bool [N, 1, 1, 1].
        after_real, after_made: noise of what D is shown, [N, C, h, w].
    """

    states: Tensor
    times: Tensor
    noisy: Tensor
    clean: Tensor
    target: Tensor
    pure: Tensor
    after_real: Tensor
    after_made: Tensor


class Game:
    """Both losses of one step.

    Args:
        config: the run.
        world: data and the discriminator's features.
        pairs: x of every z, as stage "regression" has them, [pairs, C, h, w].
    """

    def __init__(self, config: MobileConfig, world: World, pairs: Tensor) -> None:
        self.config, self.world, self.pairs = config, world, pairs
        self.features = Features(world.unet)
        self.heads = Heads(self.features.channels, world.text.config.hidden_size)
        self.optimizer = torch.optim.AdamW(self.heads.parameters(), lr=1e-4, betas=(0.0, 0.99), weight_decay=0.0)

    def batch(self, trainer: Trainer, step: int) -> Rows:
        """Returns one step's examples: the pairs' noise in the first half, scenes at one of four levels after it."""
        world, size, half = self.world, self.config.adversarial.batch, self.config.adversarial.batch // 2
        rng = np.random.default_rng([self.config.seed, 39, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        paired = rng.choice(len(self.pairs), half, replace=False)
        scenes, said = zip(*(caption_of_pair(self.config, world, index) for index in paired), strict=True)
        others = rng.choice(len(world.latents.scenes), size - half, replace=False)
        states = world.encode([*said, *world.texts(rng, others, 0.0)])
        clean = world.latents.values[torch.from_numpy(np.concatenate([scenes, others]))]
        times = torch.tensor([LAST if row < half else LAST - GAP * int(rng.integers(4)) for row in range(size)])
        noise = torch.randn((3, *clean.shape), generator=generator)
        start = torch.stack([noise_of_pair(self.config, int(index)) for index in paired])
        noisy = torch.cat([start, world.diffuse(clean, noise[0], times)[half:]])
        pure = (torch.arange(size) < half).reshape(-1, 1, 1, 1)
        target = torch.cat([self.pairs[torch.from_numpy(paired)], clean[half:]])
        rows = states, times, noisy, clean, target, pure, noise[1], noise[2]
        return Rows(*(trainer.share(one) for one in rows))

    def generator_loss(self, trainer: Trainer, step: int) -> Tensor:
        """Trains the heads on one batch; returns the generator's loss on the same one."""
        world, rows = self.world, self.batch(trainer, step)
        states, before = rows.states, (rows.times - GAP).clamp(min=0)
        alpha, sigma = world.scales(rows.times)
        drawn = alpha * rows.noisy - sigma * trainer.module(rows.noisy, rows.times, states).float()
        self._train_heads(
            trainer,
            self.features(world.diffuse(rows.clean, rows.after_real, before), before, states),
            self.features(world.diffuse(drawn.detach(), rows.after_made, before), before, states),
            states,
            penalise=step % _PENALTY_EVERY == 0,
        )
        made = self.features(world.diffuse(drawn, rows.after_made, before), before, states)
        judged = trainer.beside[0](made, states).mean()
        weight = (alpha / sigma).square().clamp(max=5.0) * ~rows.pure
        reconstruction = (weight * (rows.target - drawn).square()).mean()
        kept = (rows.pure * (rows.target - drawn).abs()).sum() / (rows.pure.sum() * drawn[0].numel()).clamp(min=1)
        return -ADVERSARIAL * judged + RECONSTRUCTION * reconstruction + kept

    def _train_heads(
        self, trainer: Trainer, real: list[Tensor], made: list[Tensor], states: Tensor, penalise: bool
    ) -> None:
        heads, optimizer = trainer.beside
        real = [one.detach().requires_grad_(penalise) for one in real]
        said = heads(real, states)
        loss = functional.relu(1.0 - said).mean() + functional.relu(1.0 + heads(made, states)).mean()
        if penalise:
            slopes = torch.autograd.grad(said.sum(), real, create_graph=True)
            penalty = torch.stack([slope.square().sum(dim=(1, 2, 3)).mean() for slope in slopes]).sum()
            loss = loss + 0.5 * PENALTY * _PENALTY_EVERY * penalty
        optimizer.zero_grad()  # of what the generator's loss left in the heads
        trainer.accelerator.backward(loss)
        trainer.accelerator.clip_grad_norm_(heads.parameters(), 1.0)
        optimizer.step()


def train_adversarial(config: MobileConfig, world: World, progress: Progress) -> Any:
    """Trains the one-step UNet against the discriminator, or returns the finished one.

    Args:
        config: the run.
        world: data and the discriminator's features.
        progress: called with step, steps and loss.
    """
    if (unet := finished(config, NAME)) is not None:
        return unet
    student = copy_of(finished(config, START) or train_regression(config, world, progress))
    game = Game(config, world, make_pairs(config, world, progress))
    trainer = student_trainer(
        config,
        NAME,
        student,
        config.adversarial,
        ema=0.995,
        beside=(game.heads, game.optimizer),
        betas=(0.0, 0.99),
    )
    trainer.run(
        lambda step: game.generator_loss(trainer, step),
        config.output / f"log-{NAME}.jsonl",
        config.save_every,
        progress,
    )
    return keep(config, NAME, trainer)
