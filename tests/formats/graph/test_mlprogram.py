"""The neutral graph of a Core ML package, against what was written into it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdmobile.errors import SdmobileError
from sdmobile.formats.graph import FileGraph, read_graph
from sdmobile.formats.graph.mlprogram import read_mlpackage
from tests.runtimes.mlprogram.support import convert_module, prepare_coremltools


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(4, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, stride=2)])
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.silu(self.blocks[1](self.blocks[0](x)))
        return self.head(self.norm(y.flatten(2).transpose(1, 2)))


_WEIGHTS = 4 * 32 * 9 + 32 * 32 * 9 + 32 * 64


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("graph") / "Model.mlpackage"
    return convert_module(_Model(), {"x": torch.zeros(2, 4, 8, 8)}, path, "iOS18", float16=True)


def _convolutions(graph: FileGraph) -> list[tuple[str, tuple[int, ...], tuple[int, ...], Any]]:
    shapes = graph.tensors
    return [
        (op.name, shapes[op.inputs[1]].shape, shapes[op.outputs[0]].shape, op.attributes["strides"])
        for op in graph.operations
        if op.kind == "conv"
    ]


def test_operations_with_their_operands_and_options(package: Path) -> None:
    graph = read_graph(package)
    assert graph.format == "mlprogram"
    assert _convolutions(graph) == [
        ("blocks.0", (32, 4, 3, 3), (2, 32, 8, 8), (1, 1)),
        ("blocks.1", (32, 32, 3, 3), (2, 32, 4, 4), (2, 2)),
    ]
    kinds = Counter(operation.kind for operation in graph.operations)
    assert (kinds["silu"], kinds["layer_norm"], kinds["linear"], kinds["const"]) == (1, 1, 1, 0)
    linear = next(operation for operation in graph.operations if operation.kind == "linear")
    assert linear.name == "head"
    assert [graph.tensors[name].shape for name in linear.inputs] == [(2, 16, 32), (64, 32), (64,)]
    assert [graph.tensors[name].constant for name in linear.inputs] == [False, True, True]
    assert graph.tensors[graph.outputs[0]].shape == (2, 16, 64)
    assert graph.tensors[graph.inputs[0]].shape == (2, 4, 8, 8)


def test_constants_count_their_bytes_in_the_file(package: Path) -> None:
    graph = read_graph(package)
    constants = [tensor for tensor in graph.tensors.values() if tensor.constant]
    assert sum(tensor.stored_bytes for tensor in constants) == 2 * sum(tensor.elements for tensor in constants)
    weights = sum(tensor.elements for tensor in constants if len(tensor.shape) > 1)
    assert weights == _WEIGHTS
    assert graph.file_bytes == sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
    blobs = next(package.rglob("weight.bin")).stat().st_size
    assert 2 * _WEIGHTS < blobs < graph.file_bytes


@pytest.mark.parametrize(("bits", "share"), [(6, 6 / 16), (4, 4 / 16)])
def test_palettes_are_folded_into_the_weight_they_make(package: Path, tmp_path: Path, bits: int, share: float) -> None:
    ct = prepare_coremltools()
    import coremltools.optimize.coreml as cto

    model = ct.models.MLModel(str(package), skip_model_load=True)
    config = cto.OpPalettizerConfig(mode="uniform", nbits=bits, weight_threshold=0)
    small: Any = cto.palettize_weights(model, cto.OptimizationConfig(global_config=config))
    small.save(str(tmp_path / "small.mlpackage"))
    plain, graph = read_graph(package), read_graph(tmp_path / "small.mlpackage")
    assert _convolutions(graph) == _convolutions(plain)
    weights = [tensor for tensor in graph.tensors.values() if tensor.constant and len(tensor.shape) > 1]
    large = [tensor for tensor in weights if tensor.elements > 1000]
    assert [tensor.dtype for tensor in large] == ["float16"] * 3
    palettes = 3 * 2 * 2**bits  # a table of float16 for each weight
    assert sum(tensor.stored_bytes for tensor in large) == 2 * _WEIGHTS * share + palettes
    assert not [operation for operation in graph.operations if operation.kind.startswith("constexpr")]


def test_linear_quantization_and_a_chain_of_decompressions(package: Path, tmp_path: Path) -> None:
    ct = prepare_coremltools()
    import coremltools.optimize.coreml as cto

    model = ct.models.MLModel(str(package), skip_model_load=True)
    palette = cto.OptimizationConfig(cto.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=0))
    linear = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_tensor"))
    palettes: Any = cto.palettize_weights(model, palette)
    chained: Any = cto.linear_quantize_weights(palettes, linear, joint_compression=True)
    chained.save(str(tmp_path / "chained.mlpackage"))
    graph = read_graph(tmp_path / "chained.mlpackage")
    large = [t for t in graph.tensors.values() if t.constant and t.elements > 1000]
    # 4-bit indices; two tables of 16 float16 numbers, and one of 16 int8 numbers with a scale for the largest weight
    assert sum(tensor.stored_bytes for tensor in large) == _WEIGHTS // 2 + 2 * 32 + (16 + 2)
    assert {t.elements for t in large} == {4 * 32 * 9, 32 * 32 * 9, 32 * 64}


def test_functions_of_a_package_are_chosen_by_name(package: Path, tmp_path: Path) -> None:
    ct = prepare_coremltools()
    torch.manual_seed(1)
    other = convert_module(nn.Conv2d(4, 8, 1), {"x": torch.zeros(1, 4, 8, 8)}, tmp_path / "o.mlpackage", "iOS18", True)
    descriptor: Any = ct.utils.MultiFunctionDescriptor()
    descriptor.add_function(str(package), "main", "model")
    descriptor.add_function(str(other), "main", "other")
    descriptor.default_function_name = "model"
    ct.utils.save_multifunction(descriptor, str(tmp_path / "both.mlpackage"))
    both = tmp_path / "both.mlpackage"
    assert _convolutions(read_graph(both)) == _convolutions(read_graph(package))
    assert [shape for _, shape, _, _ in _convolutions(read_mlpackage(both, "other"))] == [(8, 4, 1, 1)]


def test_known_modules_give_exact_paths(package: Path) -> None:
    graph = read_mlpackage(package, modules=("blocks", "blocks.0", "blocks.1", "norm", "head"))
    assert {"blocks.0", "blocks.1", "norm", "head"} <= {operation.name for operation in graph.operations}


def test_a_missing_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SdmobileError):
        read_graph(tmp_path / "none.mlpackage")
