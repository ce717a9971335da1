"""Small files for the GPU check: accepted, refused, made of composites, slow, and too large for a buffer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Case:
    """A file with an input and the output of the PyTorch module that it was made from."""

    path: Path
    inputs: dict[str, NDArray[np.float32]]
    expected: dict[str, NDArray[np.float32]]


class Plain(nn.Module):
    """Two convolutions, of which the second has a square kernel that can be transposed by mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(F.silu(self.first(x)))


class Transposed(Plain):
    """The same weights, the second kernel with its axes exchanged."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.silu(self.first(x))
        return F.conv2d(hidden, self.second.weight.transpose(0, 1), self.second.bias)


class WithNorm(nn.Module):
    """torch's GroupNorm, which the converter writes with BROADCAST_TO."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class CompositeNorm(nn.Module):
    """GroupNorm on channels last, as one `odml.group_norm`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8))
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from litert_torch.backend.composite import StableHLOCompositeBuilder

        attributes = {"num_groups": 4, "epsilon": 1e-5, "channel_axis": 3, "reduction_axes": [3]}
        builder = StableHLOCompositeBuilder(name="odml.group_norm", attr=attributes)
        x, weight, bias = builder.mark_inputs(x, self.weight, self.bias)
        y = F.group_norm(x.permute(0, 3, 1, 2), 4, weight, bias, 1e-5).permute(0, 2, 3, 1)
        marked = builder.mark_outputs(y)
        assert isinstance(marked, torch.Tensor)
        return marked


class Slow(nn.Module):
    """Over 100 GFLOP, minutes on a GPU made of two processor cores."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 64, 1), *(nn.Conv2d(64, 64, 3, padding=1) for _ in range(6)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean(1, keepdim=True)


class Large(nn.Module):
    """A tensor of 132 MiB between two convolutions, with small input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 32, 1)
        self.second = nn.Conv2d(32, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.sigmoid(self.first(x)))


def write_case(folder: Path, name: str, module: nn.Module, shape: tuple[int, ...]) -> Case:
    """Converts a module and computes its output on a seeded input."""
    import litert_torch

    module.eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    path = folder / f"{name}.tflite"
    litert_torch.convert(module, (x,)).export(str(path))
    with torch.no_grad():
        y = module(x)
    return Case(path, {"args_0": x.numpy()}, {"output_0": y.numpy()})
