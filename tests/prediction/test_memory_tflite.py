"""The plan against the arena of a real interpreter: TFLite on the CPU, without delegates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sdmobile.formats.graph import read_graph
from sdmobile.prediction.memory import XNNPACK, plan_graph

pytestmark = pytest.mark.slow


class _Mixer(nn.Module):
    """Linear layers and residuals: kernels that need no scratch memory; a softmax would run in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 192), nn.Linear(192, 64), nn.Linear(64, 320), nn.Linear(320, 64)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third, fourth = self.layers
        y = x + second(torch.relu(first(x)))
        return y + fourth(torch.relu(third(y)))


def _arena_bytes(path: Path) -> int:
    """Extent of the memory in which an interpreter keeps inputs and results of operations."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    interpreter.allocate_tensors()
    indices = {int(item["index"]) for item in interpreter.get_input_details()}
    indices |= {int(index) for operation in interpreter._get_ops_details() for index in operation["outputs"]}
    spans = []
    for index in indices:
        view = interpreter.tensor(index)()
        spans.append((view.__array_interface__["data"][0], view.nbytes))
        del view
    return max(start + size for start, size in spans) - min(start for start, _ in spans)


def test_the_plan_is_as_large_as_the_arena(tmp_path: Path) -> None:
    import litert_torch

    path = tmp_path / "mixer.tflite"
    litert_torch.convert(_Mixer().eval(), (torch.zeros(1, 100, 64),)).export(str(path))
    made = plan_graph(read_graph(path), XNNPACK)
    assert made.arena == pytest.approx(_arena_bytes(path), abs=64 * len(made.usages))
    assert made.arena < made.naive
