"""Small seeded components to measure, and shortcuts to do so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from sdmobile.quantize.sensitivity import Sensitivity
from sdmobile.quantize.sensitivity_analysis import estimate, projections
from sdmobile.quantize.sensitivity_study import EncodedWeights, Study

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WIDTH = 64


def study_of(module: nn.Module, rows: int = 3, tokens: int = 8) -> Study:
    """A module of tokens [1, tokens, WIDTH] with seeded inputs."""
    generator = torch.Generator().manual_seed(7)
    inputs = tuple((torch.randn(1, tokens, WIDTH, generator=generator),) for _ in range(rows))
    return Study("unet", module.eval().requires_grad_(False), inputs)


def deep_network(layers: int = 5) -> nn.Module:
    """Linear layers and GELU whose sensitivities differ by orders of magnitude: each layer's output is scaled."""
    torch.manual_seed(3)
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [Branch(nn.Linear(WIDTH, WIDTH), 4.0 ** -((i * 3) % layers))]
    return nn.Sequential(*parts)


class Branch(nn.Module):
    """x + scale · gelu(W x + b)."""

    def __init__(self, linear: nn.Linear, scale: float) -> None:
        super().__init__()
        self.linear, self.scale = linear, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * torch.nn.functional.gelu(self.linear(x))


def encoded(study: Study, folder: Path) -> EncodedWeights:
    """Encodings of a study's weights, kept in a folder."""
    return EncodedWeights(study, folder)


def estimated(study: Study, weights: EncodedWeights, schemes: Sequence[str], probes: int) -> NDArray[np.float64]:
    """Estimated mean squared errors."""
    count = len(study.rows) * probes
    return estimate([projections(study, weights, schemes, i, 0) for i in range(count)])


def measured(study: Study, weights: EncodedWeights, schemes: Sequence[str]) -> NDArray[np.float64]:
    """Mean squared errors with one layer compressed at a time."""
    exact = study.outputs()
    table = np.full((len(study.layers), len(schemes)), np.nan)
    for i, layer in enumerate(study.layers):
        for j, scheme in enumerate(schemes):
            found = weights.get(layer, scheme)
            if found is not None:
                table[i, j] = study.quality(exact, {layer: found[0]}).mse
    return table


def sensitivity_of(
    study: Study, weights: EncodedWeights, schemes: Sequence[str], probes: int | None = None
) -> Sensitivity:
    """The table of a small study, measured directly, and estimated if probes are given."""
    sizes = [[(weights.get(layer, s) or (None, np.nan))[1] for s in schemes] for layer in study.layers]
    stacked = np.stack(study.outputs()).astype(np.float64)
    errors = {"direct": measured(study, weights, schemes)}
    if probes is not None:
        errors["probes"] = estimated(study, weights, schemes, probes)
    return Sensitivity(
        "unet",
        "0" * 64,
        tuple(schemes),
        tuple(study.layers),
        np.array([w.numel() for w in study.layers.values()], np.int64),
        np.array(sizes, np.float64),
        errors,
        float(np.mean(np.square(stacked))),
        float(np.abs(stacked).max()),
        {"prompts": ["a"]},
    )
