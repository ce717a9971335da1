"""The neutral graph of a `.tflite` file: what it keeps of operators, and the bytes of what is stored."""

from __future__ import annotations

from pathlib import Path

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from sdmobile.errors import SdmobileError, UnsupportedError
from sdmobile.formats.errors import FormatError
from sdmobile.formats.graph import Tensor, read_graph
from tests.lint.corpus.graph import Graph, options

_IMAGE = (1, 4, 4, 8)


def _saved(folder: Path, graph: Graph, *outputs: int) -> Path:
    path = folder / "model.tflite"
    path.write_bytes(graph.bytes(*outputs))
    return path


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 192), ("float16", 96), ("int8", 48), ("int4", 24)])
def test_a_dequantized_constant_is_one_in_its_stored_form(tmp_path: Path, dtype: str, expected: int) -> None:
    graph = Graph()
    x = graph.input((2, 8))
    stored = graph.weights(6, 8, dtype=dtype)
    weights = stored if dtype == "float32" else graph.op("DEQUANTIZE", [stored], (6, 8), version=3)[0]
    made = graph.op("FULLY_CONNECTED", [x, weights, -1], (2, 6), options=options("FullyConnected"), version=6)
    read = read_graph(_saved(tmp_path, graph, *made))
    (operation,) = read.operations
    kernel = read.tensors[operation.inputs[1]]
    assert operation.kind == "fully_connected"
    assert (kernel.shape, kernel.dtype, kernel.constant, kernel.stored_bytes) == ((6, 8), dtype, True, expected)
    assert sum(tensor.stored_bytes for tensor in read.tensors.values()) == expected
    assert read.file_bytes == (tmp_path / "model.tflite").stat().st_size


def test_small_integer_constants_and_options_are_kept(tmp_path: Path) -> None:
    graph = Graph()
    x = graph.input(_IMAGE)
    (turned,) = graph.op("TRANSPOSE", [x, graph.const([0, 3, 1, 2])], (1, 8, 4, 4))
    made = graph.op("MEAN", [turned, graph.const([1])], (1, 1, 4, 4), options=options("Reducer", keepDims=True))
    read = read_graph(_saved(tmp_path, graph, *made))
    assert [operation.kind for operation in read.operations] == ["transpose", "mean"]
    assert read.operations[0].attributes == {"constant_inputs": {"1": [0, 3, 1, 2]}}
    assert read.operations[1].attributes == {"keepDims": True, "constant_inputs": {"1": [1]}}


def test_a_composite_is_one_operation_with_its_attributes(tmp_path: Path) -> None:
    graph = Graph(decompositions=1)
    x = graph.input(_IMAGE)
    known = {"num_groups": 4, "epsilon": 0.5, "channel_axis": 3, "_TENSOR_V1_reduction_axes": [3]}
    made = schema.StableHLOCompositeOptionsT()
    made.name, made.decompositionSubgraphIndex = "odml.group_norm", 1
    made.compositeAttributes = list(flexbuffers.Dumps(known))
    inputs = [x, graph.weights(8), graph.weights(8)]
    read = read_graph(_saved(tmp_path, graph, *graph.op("STABLEHLO_COMPOSITE", inputs, _IMAGE, options2=made)))
    (operation,) = read.operations
    assert (operation.kind, operation.attributes) == ("odml.group_norm", known)
    assert len(operation.inputs) == 3


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("down_blocks.0.resnets.0.conv1;3", "down_blocks.0.resnets.0.conv1"),
        ("time_proj;;time_proj;", "time_proj"),
        ("a;down_blocks.1;2", "down_blocks.1"),
        ("p.Net/torch.nn.modules.conv.Conv2d_last;2", "last (Conv2d)"),
        (";7", ""),
    ],
)
def test_the_module_is_read_from_the_name_of_the_result(tmp_path: Path, stored: str, expected: str) -> None:
    graph = Graph()
    x = graph.input(_IMAGE)
    result = graph.tensor(_IMAGE, name=stored)
    graph.op("ABS", [x], result)
    (operation,) = read_graph(_saved(tmp_path, graph, result)).operations
    assert operation.name == expected


def test_tensors_of_one_name_stay_apart(tmp_path: Path) -> None:
    graph = Graph()
    x = graph.input(_IMAGE)
    first, second = graph.tensor(_IMAGE, name="same"), graph.tensor((1, 4, 4, 1), name="same")
    graph.op("ABS", [x], first)
    graph.op("MEAN", [first, graph.const([3])], second, options=options("Reducer", keepDims=True))
    read = read_graph(_saved(tmp_path, graph, second))
    one, other = read.operations
    assert other.inputs[0] == one.outputs[0] != other.outputs[0]
    assert [read.tensors[o.outputs[0]].shape for o in read.operations] == [_IMAGE, (1, 4, 4, 1)]


def test_weights_behind_the_flatbuffer_count(tmp_path: Path) -> None:
    """Converters store them so above 2 GB."""
    model = schema.ModelT()
    model.version, model.operatorCodes = 3, [schema.OperatorCodeT()]
    constant, result, graph = schema.TensorT(), schema.TensorT(), schema.SubGraphT()
    constant.shape, constant.buffer, constant.name = [16], 1, "weights"
    result.shape, result.name = [16], "result"
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 0], [1]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [constant, result], [operator], [], [1]
    model.subgraphs, model.buffers = [graph], [schema.BufferT(), schema.BufferT()]
    stored = model.buffers[1]
    stored.offset, stored.size = 2, 64
    stored.offset = len(_packed(model))
    path = tmp_path / "large.tflite"
    path.write_bytes(_packed(model) + b"\1" * 64)
    assert read_graph(path).tensors["weights"] == Tensor("weights", (16,), "float32", True, 64)


def _packed(model: schema.ModelT) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(("name", "error"), [("a.onnx", UnsupportedError), ("missing.tflite", FormatError)])
def test_other_files_are_refused(tmp_path: Path, name: str, error: type[SdmobileError]) -> None:
    with pytest.raises(error):
        read_graph(tmp_path / name)
