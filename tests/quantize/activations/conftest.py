"""A small package with convolutions, linear layers and attention, and calls of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sdmobile.quantize.activations.simulate import Simulation
from sdmobile.rewrites.naming import name_by_module
from sdmobile.rewrites.tidy import tidy

Calls = list[dict[str, np.ndarray]]


class Mixer(nn.Module):
    """Attention with one head."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.transpose(1, 2) / 4.0, -1) @ v


class Block(nn.Module):
    """Two convolutions of one activation, attention over the pixels, and a convolution behind an outlier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 32, 3, padding=1)
        self.second = nn.Conv2d(4, 32, 3, padding=1)
        self.qkv = nn.Linear(32, 96)
        self.mixer = Mixer()
        self.last = nn.Conv2d(32, 8, 3, padding=1)
        spread = torch.ones(1, 32, 1, 1)
        spread[:, 0] = 4000.0
        self.register_buffer("spread", spread)
        with torch.no_grad():  # the channel with the outliers hardly counts
            self.last.weight[:, 0] /= 4000.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(x)) + self.second(x)
        q, k, v = self.qkv(y.flatten(2).transpose(1, 2)).chunk(3, -1)
        y = y + self.mixer(q, k, v).transpose(1, 2).reshape(y.shape)
        return self.last(y * self.spread)


def calls(seed: int, count: int) -> Calls:
    """Returns inputs of the package."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((2, 4, 8, 8)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="session")
def block() -> Block:
    """The module, seeded."""
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture(scope="session")
def package(block: Block, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module as a float16 package for iOS 17, its operations named as the exporter names them."""
    import coremltools as ct

    with torch.no_grad():
        program = tidy(torch.export.export(block, (torch.zeros(2, 4, 8, 8),)))[0].run_decompositions({})
    model: Any = ct.convert(
        name_by_module(program),
        inputs=[ct.TensorType("x", (2, 4, 8, 8), dtype=np.float32)],
        outputs=[ct.TensorType("output", dtype=np.float32)],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    path = tmp_path_factory.mktemp("package") / "block.mlpackage"
    model.save(str(path))
    return path


@pytest.fixture(scope="session")
def simulation(package: Path) -> Simulation:
    """The package, ready to run."""
    return Simulation(package)
