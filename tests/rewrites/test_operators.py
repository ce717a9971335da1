"""Values of captured operators, as rules compute them when they make tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdmobile.rewrites.operators import evaluate


class _Phases(nn.Module):
    def forward(self, timesteps: Tensor) -> Tensor:
        return (timesteps[:, None] * torch.tensor([1.0, 0.97, 0.5])).cos()


class _Frequencies(nn.Module):
    def forward(self, exponents: Tensor) -> Tensor:
        return exponents.exp()


def _found(module: nn.Module, given: Tensor) -> np.ndarray:
    graph = torch.export.export(module, (given,)).run_decompositions().graph
    place = next(node for node in graph.nodes if node.op == "placeholder" and node.name in ("timesteps", "exponents"))
    constants = {
        node: torch.tensor([1.0, 0.97, 0.5]) for node in graph.nodes if node.op == "placeholder" and node is not place
    }
    return evaluate(graph.output_node().args[0][0], {place: given, **constants}).numpy()  # type: ignore[index]


@pytest.mark.parametrize(
    ("module", "given"),
    [(_Phases(), torch.arange(1001.0)), (_Frequencies(), torch.arange(160.0) * (-math.log(10000) / 160))],
)
def test_a_function_is_the_one_of_float64_rounded_on_every_processor(module: nn.Module, given: Tensor) -> None:
    if isinstance(module, _Phases):
        phases = given.numpy()[:, None] * np.array([1, 0.97, 0.5], np.float32)  # a product of float32 is exact by IEEE
        wanted = np.cos(phases.astype(np.float64)).astype(np.float32)
    else:
        wanted = np.exp(given.numpy().astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(_found(module, given), wanted)
