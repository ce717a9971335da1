"""Parts of a cut program compute, one after the other, what the whole computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdmobile.errors import UnsupportedError
from sdmobile.exporters.chunks import SLACK, split
from sdmobile.reference.capture import example_inputs
from sdmobile.reference.subject import Subject, capture_subject
from sdmobile.rewrites.program import run


@pytest.fixture(scope="module")
def unet(tiny_checkpoint: Path) -> Subject:
    return capture_subject(tiny_checkpoint, "unet", "iphone-15-pro")


@pytest.mark.parametrize("count", [2, 3])
def test_the_chain_is_bit_identical_and_the_weights_are_shared_out(unet: Subject, count: int) -> None:
    inputs = example_inputs(unet.contract, seed=3)
    names = [s.arg.name for s in unet.program.graph_signature.input_specs if s.kind.name == "USER_INPUT"]
    values: dict[str, Tensor] = dict(zip(names, inputs, strict=True))
    parts = split(unet.program, count)
    for part in parts:
        found = run(part.program, tuple(values[name] for name in part.inputs))
        values.update(zip(part.outputs, found, strict=True))
    (expected,) = run(unet.program, inputs)
    assert torch.equal(values[parts[-1].outputs[0]], expected)
    total = sum(part.weight_bytes for part in parts)
    assert all(part.weight_bytes <= SLACK * total / count for part in parts)
    assert total == 4 * sum(tensor.numel() for tensor in unet.program.state_dict.values())


def test_parts_are_programs_that_converters_take(unet: Subject) -> None:
    for part in split(unet.program, 2):
        part.program.run_decompositions({})


class Hourglass(nn.Module):
    """Wide ends and a narrow waist: there is one best place to cut."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in [(64, 64), (64, 2), (2, 64), (64, 64)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def test_the_cut_is_where_the_fewest_bytes_cross() -> None:
    program = torch.export.export(Hourglass(), (torch.zeros(1, 64),))
    first, second = split(program, 2)
    assert first.program.graph_module.graph.find_nodes(op="output")[0].args[0][0].meta["val"].shape == (1, 2)
    assert second.inputs == first.outputs


def test_what_cannot_be_spread_is_refused() -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 1)), (torch.zeros(1, 64),))
    with pytest.raises(UnsupportedError, match="fewer --chunks"):
        split(program, 2)
