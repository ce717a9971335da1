"""The one reader of `.tflite` files: subgraphs, signatures, and what a file consists of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated

from sdmobile.formats.tflite.graph import FileFacts, read_facts
from sdmobile.formats.tflite.model import Signature
from sdmobile.formats.tflite.reader import read_graph, read_model
from tests.lint.corpus.graph import Graph, options

schema: Any = schema_py_generated
_IMAGE = (1, 4, 4, 8)


def _with_composite(folder: Path) -> Path:
    """Writes a file of two subgraphs, the second of which is what a composite of the first stands for."""
    graph = Graph(decompositions=1)
    x = graph.input(_IMAGE)
    made = options("StableHLOComposite", decompositionSubgraphIndex=1)
    made.name = "odml.group_norm"
    (normed,) = graph.op("STABLEHLO_COMPOSITE", [x], _IMAGE, options2=made)
    kernel = graph.weights(16, 1, 1, 8, dtype="float16")
    (wide,) = graph.op("DEQUANTIZE", [kernel], (16, 1, 1, 8))
    (image,) = graph.op("CONV_2D", [normed, wide], (1, 4, 4, 16), options=options("Conv2D", strideH=1, strideW=1))
    model = schema.ModelT.InitFromPackedBuf(graph.bytes(image), 0)
    inner = model.subgraphs[1]
    inner.tensors = [_tensor((1, 4, 4, 2, 4)), _tensor((1, 4, 4, 2, 4))]
    inner.operators = [_operator(model, "EXP"), _operator(model, "SQRT")]
    model.signatureDefs = [_signature("main", 0, {"image": x}, {"result": image}), _signature("part", 1, {}, {"y": 1})]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = folder / "model.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path


def _tensor(shape: tuple[int, ...]) -> Any:
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.name = list(shape), schema.TensorType.FLOAT32, "inner"
    return tensor


def _operator(model: Any, name: str) -> Any:
    """Returns an operator of a file from before operators had numbers above 127."""
    code = schema.OperatorCodeT()
    code.deprecatedBuiltinCode, code.builtinCode = getattr(schema.BuiltinOperator, name), 0
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = len(model.operatorCodes) - 1, [0], [1]
    return operator


def _signature(key: str, subgraph: int, inputs: dict[str, int], outputs: dict[str, int]) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = key, subgraph
    signature.inputs, signature.outputs = _entries(inputs), _entries(outputs)
    return signature


def _entries(tensors: dict[str, int]) -> list[Any]:
    entries = [schema.TensorMapT() for _ in tensors]
    for entry, (name, index) in zip(entries, tensors.items(), strict=True):
        entry.name, entry.tensorIndex = name, index
    return entries


def test_all_subgraphs_and_signatures_are_read(tmp_path: Path) -> None:
    path = _with_composite(tmp_path)
    model = read_model(path)
    main, inner = model.graphs
    assert [node.op for node in main.nodes] == ["STABLEHLO_COMPOSITE", "DEQUANTIZE", "CONV_2D"]
    assert [node.op for node in inner.nodes] == ["EXP", "SQRT"]
    assert main.nodes[0].composite is not None
    assert main.nodes[0].composite.decomposition == 1
    assert model.signatures == (
        Signature("main", 0, {"image": main.inputs[0]}, {"result": main.outputs[0]}),
        Signature("part", 1, {}, {"y": 1}),
    )
    assert [node.op for node in read_graph(path).nodes] == [node.op for node in main.nodes]


def test_a_decomposition_counts_apart(tmp_path: Path) -> None:
    assert read_facts(_with_composite(tmp_path)) == FileFacts(
        operators={"odml.group_norm": 1, "DEQUANTIZE": 1, "CONV_2D": 1},
        max_rank=4,
        tensor_types={"FLOAT32": 4, "FLOAT16": 1},
        largest_intermediate=4 * 4 * 16 * 4,
        decomposed=2,
    )
