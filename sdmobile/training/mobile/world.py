"""What every stage works on: the teacher, the text encoder, cached latents, and batches drawn from a step's number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdmobile.checkpoints import open_checkpoint
from sdmobile.checkpoints.load import load_model
from sdmobile.checkpoints.shapes64.captions import caption
from sdmobile.checkpoints.tokenizers import load_tokenizer
from sdmobile.training.diffusion import Latents, encode_scenes, loss_weights, stratified_timesteps
from sdmobile.training.text import tokenize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sdmobile.checkpoints.shapes64.scenes import Scene
    from sdmobile.checkpoints.types import Checkpoint
    from sdmobile.training.mobile.config import MobileConfig


@dataclass(frozen=True)
class Batch:
    """Training examples at one noise level each.

    Args:
        clean: latents x₀, [N, C, h, w].
        noise: ε, [N, C, h, w].
        timesteps: t, int64 [N].
        states: text features, [N, L, D].
        noisy: x_t = √ᾱ·x₀ + √(1 − ᾱ)·ε, [N, C, h, w].
        scenes: what the pictures show, N of them.
    """

    clean: Tensor
    noise: Tensor
    timesteps: Tensor
    states: Tensor
    noisy: Tensor
    scenes: tuple[Scene, ...]


@dataclass(frozen=True)
class World:
    """The frozen models of `shapes-64` and its training scenes.

    Args:
        checkpoint: `shapes-64`, the teacher.
        unet, text, vae: its models in float32.
        tokenizer: its tokenizer.
        latents: of the training scenes.
        alphas_cumprod: ᾱ, float32 [T].
        weights: of the squared error of the noise at every timestep, [T].
    """

    checkpoint: Checkpoint
    unet: Any
    text: Any
    vae: Any
    tokenizer: Any
    latents: Latents
    alphas_cumprod: Tensor
    weights: Tensor

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns text features, [N, L, D]."""
        ids = tokenize(self.tokenizer, list(texts))
        with torch.no_grad():
            return self.text(ids.to(next(self.text.parameters()).device)).last_hidden_state

    def texts(self, rng: np.random.Generator, chosen: np.ndarray, dropout: float) -> list[str]:
        """Returns a caption of each scene, and the empty prompt for a share of them."""
        texts = [caption(rng, self.latents.scenes[index]).text for index in chosen]
        return ["" if rng.random() < dropout else text for text in texts]

    def batch(self, seed: Sequence[int], size: int, dropout: float) -> Batch:
        """Returns one step's examples, every noise level alike.

        Args:
            seed: of everything that is drawn: the run, the stage, the step.
            size: N.
            dropout: share of empty prompts.
        """
        rng = np.random.default_rng(list(seed))
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        chosen = rng.choice(len(self.latents.scenes), size, replace=False)
        states = self.encode(self.texts(rng, chosen, dropout))
        clean = self.latents.values[torch.from_numpy(chosen)]
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = stratified_timesteps(generator, size, len(self.alphas_cumprod))
        scenes = tuple(self.latents.scenes[index] for index in chosen)
        return Batch(clean, noise, timesteps, states, self.diffuse(clean, noise, timesteps), scenes)

    def loss(self, predicted: Tensor, wanted: Tensor, timesteps: Tensor) -> Tensor:
        """Returns mean w(t)·‖predicted − wanted‖², with the weights that the teacher was trained with.

        Args:
            predicted, wanted: noise, [N, C, h, w].
            timesteps: t, int64 [N].
        """
        error = (predicted.float() - wanted).square().mean(dim=(1, 2, 3))
        return (self.weights.to(error.device)[timesteps] * error).mean()

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Returns α_t and σ_t, [N, 1, 1, 1] each."""
        cumulative = self.alphas_cumprod.to(timesteps.device)[timesteps].reshape(-1, 1, 1, 1)
        return cumulative.sqrt(), (1 - cumulative).sqrt()

    def diffuse(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Returns x_t = α_t·x₀ + σ_t·ε."""
        alpha, sigma = self.scales(timesteps)
        return alpha * clean + sigma * noise


def open_world(config: MobileConfig) -> World:
    """Loads the teacher and encodes the training scenes, the latter once per run."""
    from diffusers import DDPMScheduler

    from sdmobile.training.config import BETAS

    config.output.mkdir(parents=True, exist_ok=True)
    checkpoint = open_checkpoint()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae: Any = load_model(checkpoint, "vae")
    latents = encode_scenes(config.output, config.seed, config.scenes, vae)
    alphas_cumprod = DDPMScheduler(**BETAS).alphas_cumprod
    return World(
        checkpoint=checkpoint,
        unet=load_model(checkpoint, "unet").to(device),
        text=load_model(checkpoint, "text_encoder").to(device),
        vae=vae,
        tokenizer=load_tokenizer(checkpoint),
        latents=latents,
        alphas_cumprod=alphas_cumprod,
        weights=loss_weights(alphas_cumprod),
    )
