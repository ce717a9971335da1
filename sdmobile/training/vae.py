"""Stage 1: the autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL

from sdmobile.training.config import SCALING_FACTOR, TrainConfig, vae_config
from sdmobile.training.data import picture_batch
from sdmobile.training.loop import Trainer

if TYPE_CHECKING:
    from sdmobile.training.loop import Progress


def vae_loss(vae: torch.nn.Module, pictures: torch.Tensor, kl_weight: float) -> torch.Tensor:
    """Returns mean |x − x̂| + mean (x − x̂)² + w·KL, with the KL divergence as a mean over latent elements.

    Args:
        vae: an AutoencoderKL.
        pictures: float32 [N, 3, H, W] in [-1, 1].
        kl_weight: w.
    """
    decoded, mean, logvar = vae(pictures)
    difference = decoded.float() - pictures
    kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).float().mean()
    return difference.abs().mean() + difference.square().mean() + kl_weight * kl


class _Reconstruct(torch.nn.Module):
    """The whole autoencoder as one forward, as Accelerate's mixed precision wraps `forward` only."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        posterior = self.vae.encode(pictures).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        return self.vae.decode(posterior.sample()).sample, posterior.mean, posterior.logvar  # pyright: ignore


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, pictures: torch.Tensor) -> float:
    """Scales the latents so that scaling_factor · latent has unit variance, without changing any reconstruction.

    The last encoder layer (`quant_conv`) is multiplied by s = 1/(scaling_factor·std), the first decoder layer
    (`post_quant_conv`) divided by it; the log-variances grow by 2·ln s. So the factor stays SD's 0.18215, which
    phone code has built in.

    Args:
        vae: the trained autoencoder; changed in place.
        pictures: float32 [N, 3, H, W], from which the standard deviation is taken.

    Returns:
        The factor s.
    """
    std = float(vae.encode(pictures).latent_dist.mean.std())  # pyright: ignore[reportAttributeAccessIssue]
    scale = 1.0 / (SCALING_FACTOR * std)
    assert vae.quant_conv is not None
    assert vae.post_quant_conv is not None
    channels = vae.quant_conv.out_channels // 2
    vae.quant_conv.weight[:channels] *= scale
    assert vae.quant_conv.bias is not None
    vae.quant_conv.bias[:channels] *= scale
    vae.quant_conv.bias[channels:] += 2.0 * torch.tensor(scale).log()
    vae.post_quant_conv.weight /= scale
    return scale


def train_vae(config: TrainConfig, progress: Progress) -> AutoencoderKL:
    """Trains the autoencoder, or returns the finished one.

    Args:
        config: the run.
        progress: called with step, steps and loss.

    Returns:
        The autoencoder with averaged weights and normalised latents, also written to `<output>/vae`.
    """
    done = config.output / "vae"
    if (done / "config.json").exists():
        return AutoencoderKL.from_pretrained(done).eval()
    torch.manual_seed(config.seed)
    vae = AutoencoderKL(**vae_config())
    module = _Reconstruct(vae)
    folder = config.output / "stage-vae"
    folder.mkdir(parents=True, exist_ok=True)
    groups = [{"params": list(vae.parameters()), "lr": config.vae.learning_rate}]
    trainer = Trainer(module, groups, config.vae, folder, config.ema)

    def loss_at(step: int) -> torch.Tensor:
        pictures = picture_batch(config.seed, step, config.vae.batch).to(trainer.accelerator.device)
        return vae_loss(trainer.module, pictures, config.kl_weight)

    trainer.run(loss_at, config.output / "log-vae.jsonl", config.save_every, progress)
    trainer.averaged()
    vae = vae.cpu()
    normalise_latents(vae, picture_batch(config.seed + 1, 0, 256))
    vae.save_pretrained(done)
    return vae
