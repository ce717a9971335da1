"""Stage 2: the transformer, by flow matching on cached latents and finished text encoders.

    x_σ = (1 − σ)·x₀ + σ·ε,   loss = mean |v(x_σ, 1000·σ, text) − (ε − x₀)|²

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", arXiv 2403.03206.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

from sdmobile.checkpoints.shapes64.captions import caption
from sdmobile.training.diffusion import encode_scenes
from sdmobile.training.dit.config import transformer_config
from sdmobile.training.dit.repeated_rows import RepeatedRows, with_one_idle_row, with_one_padding_row
from sdmobile.training.dit.text import encoded, identifiers
from sdmobile.training.loop import Trainer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

    from sdmobile.training.dit.config import DitConfig
    from sdmobile.training.loop import Progress


def noise_levels(generator: torch.Generator, batch: int) -> torch.Tensor:
    """Returns σ in (0, 1), float [N]: one row in two logit-normal, as the paper's section 3.1 has it, the others even.

    Each half takes one σ from each of equal slices of its distribution, so that every step of training sees all noise
    levels. The logit-normal alone has 2 of 1000 rows above 0.95, where a caption decides the layout.
    """
    count = batch - batch // 2
    slices = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    normal = torch.special.ndtri(slices.clamp(1e-4, 1 - 1e-4)).sigmoid()
    count = batch // 2
    even = (torch.arange(count) + torch.rand(count, generator=generator)) / max(1, count)
    return torch.cat([normal, even])


def flow_loss(module: Any, clean: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor, text: Any) -> torch.Tensor:
    """Returns mean |v(x_σ) − (ε − x₀)|².

    Args:
        module: takes noisy latents, timesteps, features and pooled rows of text, and gives the velocity.
        clean: x₀, float [N, C, H, W].
        noise: ε, likewise.
        sigmas: float [N].
        text: features [N, L, D], pooled rows [N, P] and what else the module takes.
    """
    at = sigmas.reshape(-1, 1, 1, 1)
    velocity = module((1 - at) * clean + at * noise, 1000 * sigmas, *text)
    return (velocity.float() - (noise - clean)).square().mean()


class _Denoiser(torch.nn.Module):
    """The transformer with a tensor for an answer, as Accelerate's mixed precision wraps `forward`."""

    def __init__(self, transformer: SD3Transformer2DModel) -> None:
        super().__init__()
        self.transformer, self.rows = transformer, RepeatedRows()
        transformer.set_attn_processor(self.rows)  # pyright: ignore[reportArgumentType]

    def forward(self, noisy: Any, timesteps: Any, features: Any, pooled: Any, padding: int) -> torch.Tensor:
        """`padding`: how many rows the features' last one stands for."""
        self.rows.padding = padding
        return self.transformer(noisy, with_one_idle_row(features), pooled, timesteps, return_dict=False)[0]


@torch.no_grad()
def text_of(encoders: Mapping[str, Any], tokenizer: CLIPTokenizer, texts: list[str], device: Any) -> tuple[Any, Any]:
    """Returns features [N, 77, D] and pooled rows [N, P] of texts: those of both encoders, joined."""
    found = [encoded(one, identifiers(name, tokenizer, texts).to(device)) for name, one in encoders.items()]
    return torch.cat([features for features, _ in found], -1), torch.cat([pooled for _, pooled in found], -1)


def train_transformer(
    config: DitConfig, vae: AutoencoderKL, encoders: Mapping[str, Any], tokenizer: CLIPTokenizer, progress: Progress
) -> SD3Transformer2DModel:
    """Trains the transformer, from where the run stopped; text encoders and autoencoder stay as they are.

    Args:
        config: the run.
        vae: the autoencoder of `shapes-64`.
        encoders: both text encoders by name, finished.
        tokenizer: of `shapes-64`.
        progress: called with step, steps and loss.

    Returns:
        The transformer with averaged weights, also written to `<output>/transformer`.
    """
    torch.manual_seed(config.seed)
    transformer = SD3Transformer2DModel(**transformer_config())
    latents = encode_scenes(config.output, config.seed, config.scenes, vae)
    folder = config.output / "stage-transformer"
    folder.mkdir(parents=True, exist_ok=True)
    groups = [{"params": list(transformer.parameters()), "lr": config.transformer.learning_rate}]
    usual = transformer.attn_processors
    trainer = Trainer(_Denoiser(transformer), groups, config.transformer, folder, config.ema)
    device = trainer.accelerator.device
    for one in encoders.values():
        one.requires_grad_(False).to(device)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([config.seed, 3, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        chosen = rng.choice(len(latents.scenes), config.transformer.batch, replace=False)
        texts = [caption(rng, latents.scenes[index]).text for index in chosen]
        texts = ["" if rng.random() < config.dropout else words for words in texts]
        clean = latents.values[torch.from_numpy(chosen)]
        noise = torch.randn(clean.shape, generator=generator)
        sigmas = noise_levels(generator, len(clean))[torch.randperm(len(clean), generator=generator)]
        features, pooled = text_of(encoders, tokenizer, texts, device)
        padding = 1
        if step < config.one_padding_row * config.transformer.steps:
            longest = max(len(ids) for ids in tokenizer(texts).input_ids)
            features, padding = with_one_padding_row(features, longest, rng)
        said = (features, pooled, padding)
        return flow_loss(trainer.module, clean.to(device), noise.to(device), sigmas.to(device), said)

    trainer.run(loss_at, config.output / "log-transformer.jsonl", config.save_every, progress)
    trainer.averaged()
    transformer.set_attn_processor(usual)
    torch.nn.Module.to(transformer, "cpu")
    transformer.save_pretrained(config.output / "transformer")
    return transformer
