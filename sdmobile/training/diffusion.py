"""Stage 3: the UNet, on cached latents and the finished text encoder, for classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from sdmobile.checkpoints.shapes64.captions import caption
from sdmobile.checkpoints.shapes64.scenes import Scene, render
from sdmobile.training.config import BETAS, SCALING_FACTOR, TrainConfig, unet_config
from sdmobile.training.data import scene_batch, to_tensor
from sdmobile.training.loop import Trainer
from sdmobile.training.text import make_tokenizer, tokenize

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    from sdmobile.training.loop import Progress

MAX_WEIGHT = 10.0
MAX_SNR = 5.0


@dataclass
class Latents:
    """Training scenes and their scaled latents, float32 [N, 4, 16, 16] of unit variance."""

    scenes: list[Scene]
    values: torch.Tensor


@torch.no_grad()
def encode_scenes(
    output: Path,
    seed: int,
    count: int,
    vae: AutoencoderKL,
    draw: Callable[[Scene], np.ndarray] = render,
    style: str | None = None,
) -> Latents:
    """Draws the training scenes and encodes their pictures, once per run.

    Args:
        output: gets `latents.pt`, or `latents-<style>.pt`.
        seed: of the run.
        count: of the scenes; fewer are the first ones.
        vae: encodes.
        draw: makes a picture of a scene.
        style: what pictures of another kind are called.
    """
    scenes = scene_batch(seed + 20, 0, count)
    path = output / ("latents.pt" if style is None else f"latents-{style}.pt")
    if not path.exists():
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.nn.Module.to(vae, device)
        parts: list[torch.Tensor] = []
        for start in range(0, len(scenes), 100):
            pictures = to_tensor([draw(scene) for scene in scenes[start : start + 100]]).to(device)
            parts.append(vae.encode(pictures).latent_dist.mean.cpu() * SCALING_FACTOR)  # pyright: ignore
        torch.save(torch.cat(parts), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
        torch.nn.Module.to(vae, "cpu")
    return Latents(scenes, torch.load(path, weights_only=True))


def loss_weights(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Returns the weight of the squared error of the predicted noise at every timestep, of mean one.

    w(t) ∝ min(1/ᾱ, 10)·min(1, 5/SNR), SNR = ᾱ/(1 − ᾱ): 1/ᾱ makes it the loss of v-prediction, so that the layout,
    decided at high noise, counts; the second factor is Min-SNR's (Hang et al. 2023, arXiv 2303.09556).

    Args:
        alphas_cumprod: ᾱ, float [T].
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weights = (1 / alphas_cumprod).clamp(max=MAX_WEIGHT) * (MAX_SNR / snr).clamp(max=1.0)
    return weights / weights.mean()


class _Denoiser(torch.nn.Module):
    """The UNet with a tensor for an answer, as Accelerate's mixed precision wraps `forward`."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return self.unet(noisy, timesteps, states).sample


def stratified_timesteps(generator: torch.Generator, batch: int, steps: int) -> torch.Tensor:
    """Returns one timestep from each of `batch` equal slices, so that every step of training sees all noise levels."""
    slices = torch.arange(batch) + torch.rand(batch, generator=generator)
    return (slices / batch * steps).long().clamp(max=steps - 1)


def _trainer(config: TrainConfig, unet: UNet2DConditionModel) -> Trainer:
    folder = config.output / "stage-unet"
    folder.mkdir(parents=True, exist_ok=True)
    groups = [{"params": list(unet.parameters()), "lr": config.unet.learning_rate}]
    return Trainer(_Denoiser(unet), groups, config.unet, folder, config.ema)


def train_unet(
    config: TrainConfig, vae: AutoencoderKL, text: CLIPTextModel, progress: Progress
) -> UNet2DConditionModel:
    """Trains the UNet to predict the noise, from where the run stopped; the text encoder stays as it is.

    Args:
        config: the run.
        vae: the finished autoencoder.
        text: the finished text encoder.
        progress: called with step, steps and loss.

    Returns:
        The UNet with averaged weights.
    """
    torch.manual_seed(config.seed)
    unet = UNet2DConditionModel(**unet_config())
    if not torch.cuda.is_available():
        # CPU flash attention in bfloat16 has a backward pass four times slower than plain matmuls (torch 2.13).
        unet.set_attn_processor(AttnProcessor())
    latents = encode_scenes(config.output, config.seed, config.scenes, vae)
    tokenizer = make_tokenizer(config)
    scheduler = DDPMScheduler(**BETAS)
    trainer = _trainer(config, unet)
    device = trainer.accelerator.device
    text.requires_grad_(False).to(device)  # pyright: ignore[reportArgumentType]
    weights = loss_weights(scheduler.alphas_cumprod)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([config.seed, 3, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        chosen = rng.choice(len(latents.scenes), config.unet.batch, replace=False)
        texts = [caption(rng, latents.scenes[index]).text for index in chosen]
        texts = ["" if rng.random() < config.dropout else words for words in texts]
        clean = latents.values[torch.from_numpy(chosen)]
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = stratified_timesteps(generator, len(clean), len(weights))
        noisy = scheduler.add_noise(clean, noise, timesteps)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():
            states = text(tokenize(tokenizer, texts).to(device)).last_hidden_state
        predicted = trainer.module(noisy.to(device), timesteps.to(device), states)
        error = (predicted.float() - noise.to(device)).square().mean(dim=(1, 2, 3))
        return (weights[timesteps].to(device) * error).mean()

    trainer.run(loss_at, config.output / "log-unet.jsonl", config.save_every, progress)
    trainer.averaged()
    unet.set_default_attn_processor()
    torch.nn.Module.to(unet, "cpu")
    return unet
