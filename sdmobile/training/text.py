"""Stage 2: the text encoder learns to parse captions before it sees a picture.

A diffusion loss teaches language slowly; naming the attributes that a caption claims teaches it in minutes. Heads on
the end-of-text state and on the padding after it (which the UNet reads too) classify every attribute; they are
thrown away afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdmobile.checkpoints.bpe import write_clip_tokenizer
from sdmobile.checkpoints.shapes64.captions import Claims, caption
from sdmobile.checkpoints.shapes64.scenes import BACKGROUNDS, COLOURS, RADII, SHAPES
from sdmobile.training.config import CONTEXT_LENGTH, TrainConfig, text_config
from sdmobile.training.data import corpus, scene_batch
from sdmobile.training.loop import Trainer

if TYPE_CHECKING:
    from sdmobile.training.loop import Progress

_PLACES = [(column, row) for column in ("left", "middle", "right") for row in ("top", "middle", "bottom")]
_ITEM = (("shape", [None, *SHAPES]), ("colour", [None, *COLOURS]), ("size", [None, *RADII]))
_ATTRIBUTES: list[list] = [
    *(values for _ in range(2) for _, values in _ITEM),
    [None, *BACKGROUNDS],
    [None, *_PLACES],
    [None, "x", "y"],
]
CLASSES = sum(len(options) for options in _ATTRIBUTES)
"""Of all attributes together, a logit each."""


def labels(claims: Claims) -> list[int]:
    """Returns the class of every attribute of a caption: shape, colour and size of two items, background, place, axis.

    Args:
        claims: what the caption says; class 0 is "not said".
    """
    values: list = []
    for index in range(2):
        item = claims.items[index] if index < len(claims.items) else None
        values += [getattr(item, name, None) for name, _ in _ITEM]
    values += [claims.background, claims.place, claims.axis]
    return [options.index(value) for options, value in zip(_ATTRIBUTES, values, strict=True)]


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Returns identifiers, int64 [N, 77], padded with the end-of-text token."""
    batch = tokenizer(texts, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True, return_tensors="pt")
    return batch["input_ids"]


class _Parser(torch.nn.Module):
    """The text encoder with one linear head for all attributes."""

    def __init__(self, text: CLIPTextModel) -> None:
        super().__init__()
        self.text = text
        self.head = torch.nn.Linear(text.config.hidden_size, CLASSES)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with torch.autocast(ids.device.type, enabled=False):  # small and precise: float32 costs nothing here
            states = self.text(ids).last_hidden_state
            chosen = states[torch.arange(len(ids), device=ids.device)[:, None], positions]
            return self.head(chosen)


def positions(rng: np.random.Generator, ids: torch.Tensor, end: Any) -> torch.Tensor:
    """Returns where each text ends, and a place behind that, int64 [N, 2]: what a denoiser reads of all padding.

    Args:
        rng: draws the place.
        ids: int64 [N, 77].
        end: identifier of the end of a text.
    """
    first_end = (ids == end).int().argmax(dim=1)
    later = [int(rng.integers(int(start), CONTEXT_LENGTH)) for start in first_end]
    return torch.stack([first_end, torch.tensor(later)], dim=1)


def parse_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the cross-entropy summed over attributes, averaged over captions and positions.

    Args:
        logits: float [N, P, total classes].
        targets: int64 [N, attributes].
    """
    total = logits.new_zeros(())
    start = 0
    for index, options in enumerate(_ATTRIBUTES):
        part = logits[..., start : start + len(options)]
        start += len(options)
        target = targets[:, index : index + 1].expand(part.shape[:2])
        total = total + functional.cross_entropy(part.flatten(0, 1).float(), target.flatten())
    return total


def make_tokenizer(config: TrainConfig) -> CLIPTokenizer:
    """Writes the tokenizer of the run to `<output>/tokenizer`, once, and loads it."""
    folder = config.output / "tokenizer"
    if not (folder / "vocab.json").exists():
        write_clip_tokenizer(folder, corpus(config.seed))
    return CLIPTokenizer.from_pretrained(folder)


def train_text(config: TrainConfig, progress: Progress) -> CLIPTextModel:
    """Trains the text encoder to parse captions, or returns the finished one.

    Args:
        config: the run.
        progress: called with step, steps and loss.

    Returns:
        The text encoder with averaged weights, also written to `<output>/text_encoder_parsed`.
    """
    done = config.output / "text_encoder_parsed"
    if (done / "config.json").exists():
        return CLIPTextModel.from_pretrained(done)
    torch.manual_seed(config.seed)
    tokenizer = make_tokenizer(config)
    parser = _Parser(CLIPTextModel(CLIPTextConfig(**text_config(len(tokenizer)))))
    folder = config.output / "stage-text"
    folder.mkdir(parents=True, exist_ok=True)
    groups = [{"params": list(parser.parameters()), "lr": config.text.learning_rate}]
    trainer = Trainer(parser, groups, config.text, folder, config.ema)
    device = trainer.accelerator.device

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([config.seed, 2, step])
        said = [caption(rng, scene) for scene in scene_batch(config.seed + 10, step, config.text.batch)]
        ids = tokenize(tokenizer, [sentence.text for sentence in said])
        targets = torch.tensor([labels(sentence.claims) for sentence in said])
        chosen = positions(rng, ids, tokenizer.eos_token_id)
        return parse_loss(trainer.module(ids.to(device), chosen.to(device)), targets.to(device))

    trainer.run(loss_at, config.output / "log-text.jsonl", config.save_every, progress)
    trainer.averaged()
    text = parser.text.cpu()
    text.save_pretrained(done)
    return text
