"""Stage "decoder": a thin decoder, cut out of that of `shapes-64`, that draws what it draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdmobile.checkpoints import open_checkpoint
from sdmobile.checkpoints.load import load_model
from sdmobile.models.autoencoder import MobileAutoencoderKL
from sdmobile.training.config import SCALING_FACTOR
from sdmobile.training.loop import Trainer
from sdmobile.training.mobile.config import vae_config

if TYPE_CHECKING:
    from torch import Tensor

    from sdmobile.training.loop import Progress
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.world import World

NAME = "decoder"
NOISE = 0.05
"""Standard deviation of what is added to the scaled latents: a sampler's latents are not quite an encoder's."""


class _Decode(torch.nn.Module):
    """The decoding half alone, whose forward Accelerate wraps."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latent: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latent))


def matching_loss(drawn: Tensor, target: Tensor) -> Tensor:
    """Returns mean |d| + mean d² + mean |∂d|, d the difference of two pictures [N, 3, H, W], ∂ along both axes."""
    difference = drawn - target
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return difference.abs().mean() + difference.square().mean() + edges


def thin_decoder(config: MobileConfig) -> Any | None:
    """Returns the autoencoder that the stage left, None while it is not done."""
    folder = config.output / NAME
    if not (folder / "config.json").exists():
        return None
    loaded: Any = MobileAutoencoderKL.from_pretrained(folder)
    return loaded.eval().requires_grad_(False)


def teachers_autoencoder() -> Any:
    """Returns the autoencoder of `shapes-64` as a MobileAutoencoderKL, whose decoder is as wide as the encoder."""
    checkpoint = open_checkpoint()
    widths = tuple(checkpoint.components["vae"].config["block_out_channels"])
    settings = {"decoder_block_out_channels": widths, "decoder_layers_per_block": 2, "decoder_mid_block": "attention"}
    vae: Any = MobileAutoencoderKL(**(vae_config() | settings))
    vae.load_state_dict(load_model(checkpoint, "vae").state_dict())
    return vae.eval().requires_grad_(False)


def train_decoder(config: MobileConfig, world: World, progress: Progress) -> Any:
    """Trains the thin decoder by the teacher's pictures of the same latents, or returns the finished autoencoder.

    Args:
        config: the run.
        world: teacher and latents.
        progress: called with step, steps and loss.

    Returns:
        The autoencoder: the teacher's encoder with the thin decoder of averaged weights.
    """
    if (loaded := thin_decoder(config)) is not None:
        return loaded
    torch.manual_seed(config.seed)
    vae: Any = MobileAutoencoderKL(**vae_config())
    vae.encoder.load_state_dict(world.vae.encoder.state_dict())
    vae.quant_conv.load_state_dict(world.vae.quant_conv.state_dict())
    vae.post_quant_conv.load_state_dict(world.vae.post_quant_conv.state_dict())
    kept = world.vae.decoder.state_dict()  # the first block of every level, and what is between the levels
    vae.decoder.load_state_dict({name: kept[name] for name in vae.decoder.state_dict()})
    module = _Decode(vae)
    folder = config.output / f"stage-{NAME}"
    folder.mkdir(parents=True, exist_ok=True)
    groups = [{"params": list(module.parameters()), "lr": config.decoder.learning_rate}]
    trainer = Trainer(module, groups, config.decoder, folder, config.ema)
    teacher = _Decode(world.vae).to(trainer.accelerator.device)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([config.seed, 32, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        chosen = rng.choice(len(world.latents.scenes), config.decoder.batch, replace=False)
        scaled = world.latents.values[torch.from_numpy(chosen)]
        scaled = scaled + NOISE * torch.randn(scaled.shape, generator=generator)
        latent = trainer.share(scaled / SCALING_FACTOR)
        with torch.no_grad():
            target = teacher(latent)
        return matching_loss(trainer.module(latent).float(), target)

    trainer.run(loss_at, config.output / f"log-{NAME}.jsonl", config.save_every, progress)
    trainer.averaged()
    vae = vae.cpu()
    if trainer.accelerator.is_main_process:
        vae.save_pretrained(config.output / NAME)
    return vae.eval().requires_grad_(False)
