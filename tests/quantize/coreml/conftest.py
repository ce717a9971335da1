"""One small package with every kind of weight, converted once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.runtimes.mlprogram.support import convert_module


class Layers(nn.Module):
    """Embedding, convolution, layer norm and linear layers, one of which is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 48)
        self.conv = nn.Conv2d(48, 64, 3, padding=1)
        self.norm = nn.LayerNorm(64)
        self.twice = nn.Linear(64, 64)
        self.out = nn.Linear(64, 48, bias=False)
        self.table = nn.Parameter(torch.randn(1, 16, 64))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids).transpose(1, 2).reshape(1, 48, 4, 4)
        x = self.conv(x).reshape(1, 64, 16).transpose(1, 2) + self.table
        x = torch.relu(self.twice(self.norm(x)))
        return self.out(self.twice(x))


IDS = torch.arange(16).reshape(1, 16) * 3


@pytest.fixture(scope="session")
def layers() -> Layers:
    """The module, seeded."""
    torch.manual_seed(0)
    return Layers().eval()


@pytest.fixture(scope="session")
def package(layers: Layers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module as a float16 package for iOS 17."""
    path = tmp_path_factory.mktemp("package") / "layers.mlpackage"
    return convert_module(layers, {"ids": IDS.int()}, path, "iOS17", float16=True)
