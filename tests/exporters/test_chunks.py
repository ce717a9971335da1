"""Parts of a cut program compute, one after the other, what the whole computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sdmobile.basics.metrics import psnr
from sdmobile.errors import UnsupportedError
from sdmobile.exporters.chunk_contracts import part_contracts
from sdmobile.exporters.chunks import SLACK, split
from sdmobile.formats.bundle.contracts import OPAQUE, Contract, TensorSpec
from sdmobile.reference.capture import example_inputs
from sdmobile.reference.subject import Subject, capture_subject
from sdmobile.rewrites.program import run
from sdmobile.rewrites.tidy import tidy


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


class Layers(nn.Module):
    """Three linear layers; the cheapest cut lies between the first two."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(8, 16)
        self.register_buffer("shift", torch.linspace(-1, 1, 16), persistent=False)


class Buffered(Layers):
    """A buffer that no checkpoint holds, in both parts."""

    shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x) + self.shift) + self.shift[:8])


class InPlace(Layers):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y += 1
        return self.third(self.second(y.mul_(2).relu_()))


class ViewChanged(Layers):
    """A view is changed behind the cheapest cut, and the value that it belongs to is used after that."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        view = y[:, :8]
        z = self.third(self.second(y))
        view.add_(1.0)
        return self.last(z) + y.sum()


class Region(Layers):
    """Autocast, switched off and on: graphs within the graph, on both sides of the cut."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            y = self.first(x.float()) * 2
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.second(y)
        return self.third(y.float())


class MaskAndIndices(Layers):
    """A mask and indices are made in the first part and used in the second."""

    def forward(self, x: Tensor) -> Tensor:
        mask, indices, y = x > 0, x.argmax(-1), self.first(x)
        return self.third(torch.where(mask[:, :8], self.second(y), 0.0)) * indices[:, None]


class Indices(Layers):
    def forward(self, x: Tensor) -> Tensor:
        indices, y = x.argmax(-1), self.first(x)
        return self.third(self.second(y)) * indices[:, None].float()


def small(kind: type[nn.Module]) -> tuple[ExportedProgram, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 16)
    return tidy(torch.export.export(kind().eval(), (x,), strict=False))[0], x


@pytest.mark.parametrize("kind", [Buffered, InPlace, ViewChanged, Region, MaskAndIndices])
def test_whatever_a_module_holds_the_chain_is_bit_identical(kind: type[nn.Module]) -> None:
    program, x = small(kind)
    (expected,) = run(program, (x,))
    values = {"x": x}
    parts = split(program, 2)
    for part in parts:
        values.update(zip(part.outputs, run(part.program, tuple(values[n] for n in part.inputs)), strict=True))
        part.program.run_decompositions({})
    assert torch.equal(values[parts[-1].outputs[0]], expected)


def test_no_cut_tears_a_value_from_what_changes_it() -> None:
    program, _ = small(ViewChanged)
    first, second = split(program, 2)
    changes = [[n for n in part.program.graph.nodes if str(n.target) == "aten.add_.Tensor"] for part in (first, second)]
    assert [len(nodes) for nodes in changes] == [1, 0]
    assert "linear" in {node.name for node in first.program.graph.nodes}


def interface(target: str) -> Contract:
    x = TensorSpec("x", (2, 16), "float32", "x", "x", OPAQUE)
    file_name = "Unet.mlpackage" if target == "ios" else "unet.tflite"
    return Contract(target, "unet", file_name, "unet", (x,), (replace(x, name="y"),))


def crossing_types(kind: type[nn.Module], target: str) -> list[str]:
    program, _ = small(kind)
    first, second = part_contracts(interface(target), program, split(program, 2))
    assert {spec.name: spec for spec in second.inputs} == {spec.name: spec for spec in first.outputs}
    return sorted(spec.dtype for spec in first.outputs)


def test_values_cross_in_their_own_types() -> None:
    assert crossing_types(Buffered, "ios") == ["float32"]
    assert crossing_types(MaskAndIndices, "android") == ["bool", "float32", "int32"]
    assert crossing_types(MaskAndIndices, "onnx") == ["bool", "float32", "int64"]
    assert crossing_types(Indices, "ios") == ["float32", "int32"]
    with pytest.raises(UnsupportedError, match=r"ios files pass on.*bool.*--chunks 1"):
        crossing_types(MaskAndIndices, "ios")


@pytest.mark.parametrize(("kind", "target"), [(Indices, "ios"), (MaskAndIndices, "android")])
def test_files_pass_indices_and_masks_on(kind: type[nn.Module], target: str, provenance: Any, tmp_path: Path) -> None:
    from sdmobile.exporters.component import lower_to_file
    from sdmobile.exporters.lowering import LoweringOptions

    program, x = small(kind)
    parts = split(program, 2)
    values = {"x": x.numpy()}
    for part, contract in zip(parts, part_contracts(interface(target), program, parts), strict=True):
        path = tmp_path / contract.file_name
        lower_to_file(part.program, contract, path, LoweringOptions(provenance))
        predicted = predict(path, contract.signature, {spec.name: values[spec.name] for spec in contract.inputs})
        for spec in contract.outputs:
            assert predicted[spec.name].dtype == spec.dtype
        values.update(predicted)
    assert psnr(run(program, (x,))[0].numpy(), values["y"]) > 60


def predict(path: Path, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns what a file computes: the evaluator in float32, or LiteRT on the CPU."""
    if path.suffix == ".mlpackage":
        from sdmobile.runtimes.mlprogram import MLProgram

        return MLProgram(path).predict(inputs)
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path)).get_signature_runner(signature)(**inputs)
