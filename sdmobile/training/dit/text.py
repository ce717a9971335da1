"""Stage 1: both text encoders learn to parse captions, where the transformer reads them.

That is the features before the last layer, of every token, and the pooled row; see `sdmobile.training.text` for why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from sdmobile.checkpoints.shapes64.captions import caption
from sdmobile.families.clip_pooled import with_second_padding
from sdmobile.training.data import scene_batch
from sdmobile.training.dit.config import WIDTHS, text_config
from sdmobile.training.loop import Trainer
from sdmobile.training.text import CLASSES, labels, parse_loss, positions, tokenize

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from sdmobile.training.dit.config import DitConfig
    from sdmobile.training.loop import Progress


def identifiers(name: str, tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Returns what a text encoder is given, int64 [N, 77]; the second one's texts are filled up with 0."""
    ids = tokenize(tokenizer, texts)
    return torch.from_numpy(with_second_padding(ids.numpy())) if name == "text_encoder_2" else ids


def encoded(encoder: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the features before the last layer, [N, 77, D], and the projected pooled row, [N, D]."""
    out = encoder(ids, output_hidden_states=True)
    return out.hidden_states[-2], out.text_embeds


class _Parser(torch.nn.Module):
    """A text encoder with linear heads for all attributes: of tokens' features, and of the pooled row."""

    def __init__(self, encoder: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        # The features before the last layer are of any scale.
        self.of_tokens = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, CLASSES))
        self.of_pooled = torch.nn.Linear(encoder.config.projection_dim, CLASSES)

    def forward(self, ids: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        with torch.autocast(ids.device.type, enabled=False):  # small and precise: float32 costs nothing here
            states, pooled = encoded(self.encoder, ids)
            rows = states[torch.arange(len(ids), device=ids.device)[:, None], chosen]
            return torch.cat([self.of_tokens(rows), self.of_pooled(pooled)[:, None]], dim=1)


def train_encoder(config: DitConfig, name: str, tokenizer: CLIPTokenizer, progress: Progress) -> Any:
    """Trains one text encoder to parse captions, or returns the finished one.

    Args:
        config: the run.
        name: "text_encoder" or "text_encoder_2".
        tokenizer: of `shapes-64`.
        progress: called with step, steps and loss.

    Returns:
        The text encoder with averaged weights, also written to `<output>/<name>`.
    """
    done = config.output / name
    if (done / "config.json").exists():
        return CLIPTextModelWithProjection.from_pretrained(done).eval()
    turn = list(WIDTHS).index(name)
    torch.manual_seed(config.seed + turn)
    parser = _Parser(CLIPTextModelWithProjection(CLIPTextConfig(**text_config(name, len(tokenizer)))))
    folder = config.output / f"stage-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    groups = [{"params": list(parser.parameters()), "lr": config.text.learning_rate}]
    trainer = Trainer(parser, groups, config.text, folder, config.ema)
    device = trainer.accelerator.device

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([config.seed, 2, step])
        said = [caption(rng, scene) for scene in scene_batch(config.seed + 10, step, config.text.batch)]
        ids = identifiers(name, tokenizer, [sentence.text for sentence in said])
        targets = torch.tensor([labels(sentence.claims) for sentence in said])
        chosen = positions(rng, ids, tokenizer.eos_token_id)
        return parse_loss(trainer.module(ids.to(device), chosen.to(device)), targets.to(device))

    trainer.run(loss_at, config.output / f"log-{name}.jsonl", config.save_every, progress)
    trainer.averaged()
    encoder: Any = parser.encoder.cpu()
    encoder.save_pretrained(done)
    return encoder
