"""A small network as a `.tflite` file with float16 weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def small_tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convolution [96, 3, 3, 32], ReLU, mean, linear [128, 96] and linear [30, 128], seeded."""
    import litert_torch
    import torch

    from sdmobile.quantize.tflite_float16 import cast_weights

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(32, 96, 3, padding=1)
            self.wide = torch.nn.Linear(96, 128)
            self.narrow = torch.nn.Linear(128, 30)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.narrow(torch.relu(self.wide(torch.relu(self.conv(x)).mean((2, 3)))))

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tflite")
    litert_torch.convert(Net().eval(), (torch.zeros(1, 32, 8, 8),)).export(str(folder / "float32.tflite"))
    cast_weights(folder / "float32.tflite", folder / "float16.tflite")
    _name_by_module(folder / "float16.tflite", ("conv", "wide", "narrow"))
    return folder / "float16.tflite"


def _name_by_module(path: Path, modules: tuple[str, ...]) -> None:
    """Gives operators and weights the names that sdmobile's exporter gives them."""
    from ai_edge_litert.tools import flatbuffer_utils

    from sdmobile.quantize.litert.engine import float16_weights

    model: Any = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    for weight, module in zip(float16_weights(path), modules, strict=True):
        user = next(op for op in graph.operators if weight.wide in list(op.inputs))
        graph.tensors[weight.tensor].name = f"{module};1".encode()
        graph.tensors[user.outputs[0]].name = f"{module};2".encode()
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
