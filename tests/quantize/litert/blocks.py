"""Small networks of linear layers, batch 1 with biases: what the converter lets drop its leading axis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

WIDTH = 64


class Block(nn.Module):
    """A linear layer with something behind it, and another.

    Args:
        between: what follows the first layer.
    """

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2 + self.second(self.between(self.first(x)))


BLOCKS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nothing": lambda x: x,
    "GELU": F.gelu,
    "SiLU": F.silu,
    "a constant": lambda x: 2.0 * x + 1.0,
    "its own square": lambda x: x * x,
    "a softmax": lambda x: x.softmax(-1),
    "a transposition": lambda x: x.transpose(1, 2).softmax(1).transpose(1, 2),
    "its mean": lambda x: x - x.mean(-1, keepdim=True),
    "heads": lambda x: x.reshape(*x.shape[:2], 4, 16).transpose(1, 2).relu().transpose(1, 2).reshape(x.shape),
}


def write_block(folder: Path, name: str, batch: int = 1) -> Path:
    """Writes a block as a `.tflite` file with float16 weights and returns its path."""
    import litert_torch

    from sdmobile.quantize.tflite_float16 import cast_weights

    torch.manual_seed(0)
    wide, path = folder / "float32.tflite", folder / f"{name.replace(' ', '-')}-{batch}.tflite"
    sample = (torch.zeros(batch, 80, WIDTH),)
    litert_torch.convert(Block(BLOCKS[name]).eval(), sample).export(str(wide))
    cast_weights(wide, path)
    wide.unlink()
    return path
