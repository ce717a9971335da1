"""The schema that ships is ai-edge-litert's, and files are read by it as by the code that was generated from it."""

from __future__ import annotations

import struct
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as generated_schema

from sdmobile.formats.tflite.schema import Record, numbers_of, schema
from sdmobile.formats.tflite.schema_source import generated, schema_of

theirs: Any = generated_schema


def test_the_shipped_schema_is_not_stale() -> None:
    assert schema() == schema_of(generated()), "run `make tflite-schema`"


def _tensor(**fields: Any) -> Any:
    tensor = theirs.TensorT()
    for name, value in {"name": "t", "shape": [1, 4], **fields}.items():
        setattr(tensor, name, value)
    return tensor


def _operator(kind: int, options: Any, more: Any = None) -> Any:
    operator = theirs.OperatorT()
    operator.inputs, operator.outputs = np.array([0, -1, 1], np.int32), [2]
    if more is None:
        operator.builtinOptionsType, operator.builtinOptions = kind, options
    else:
        operator.builtinOptions2Type, operator.builtinOptions2 = kind, more
    return operator


def _quantized() -> Any:
    quantization = theirs.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = [0.5, 0.25], np.array([1, -(2**40)], np.int64)
    quantization.quantizedDimension = 1
    return quantization


def _blockwise() -> Any:
    quantization = theirs.QuantizationParametersT()
    quantization.detailsType = theirs.QuantizationDetails.BlockwiseQuantization
    quantization.details = theirs.BlockwiseQuantizationT()
    quantization.details.scales, quantization.details.blockSize = 7, 32
    return quantization


def _sparse() -> Any:
    sparsity, dimension = theirs.SparsityParametersT(), theirs.DimensionMetadataT()
    dimension.arraySegmentsType = theirs.SparseIndexVector.Uint8Vector
    dimension.arraySegments = theirs.Uint8VectorT()
    dimension.arraySegments.values = np.array([0, 200], np.uint8)
    sparsity.traversalOrder, sparsity.dimMetadata = [0, 1], [dimension]
    return sparsity


@pytest.fixture(scope="module")
def image() -> bytes:
    """A file with every kind of field: numbers with and without defaults, texts, vectors, unions, tables in tables."""
    convolution, composite = theirs.Conv2DOptionsT(), theirs.StableHLOCompositeOptionsT()
    convolution.strideW, convolution.padding, convolution.dilationHFactor = 2, 1, 3
    composite.name, composite.compositeAttributes = "odml.x", np.arange(5, dtype=np.uint8)
    reshape = theirs.ReshapeOptionsT()
    reshape.newShape = np.array([-1, 2], np.int32)
    graph = theirs.SubGraphT()
    graph.name, graph.inputs, graph.outputs = "main", [0], [2]
    graph.tensors = [
        _tensor(quantization=_quantized(), isVariable=True),
        _tensor(quantization=_blockwise(), shape=None, name="ü"),
        _tensor(sparsity=_sparse(), type=theirs.TensorType.INT4, shapeSignature=[-1, 4]),
    ]
    graph.operators = [
        _operator(theirs.BuiltinOptions.Conv2DOptions, convolution),
        _operator(theirs.BuiltinOptions.ReshapeOptions, reshape),
        _operator(theirs.BuiltinOptions2.StableHLOCompositeOptions, None, composite),
    ]
    buffer, signature, entry = theirs.BufferT(), theirs.SignatureDefT(), theirs.TensorMapT()
    buffer.data, entry.name, entry.tensorIndex = np.arange(9, dtype=np.uint8), "x", 2
    signature.signatureKey, signature.inputs, signature.outputs = "serve", [entry], []
    model = theirs.ModelT()
    model.version, model.subgraphs, model.buffers, model.signatureDefs = 3, [graph], [buffer], [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _same(ours: Any, wanted: Any, seen: set[str]) -> None:
    if isinstance(ours, Record):
        items = ours.items()
        assert list(items) == list(vars(wanted))
        for name, value in items.items():
            seen.add(name)
            _same(value, getattr(wanted, name), seen)
    elif isinstance(ours, list):
        assert len(ours) == len(wanted)
        for one, other in zip(ours, wanted, strict=True):
            _same(one, other, seen)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == wanted.dtype
        assert ours.tolist() == wanted.tolist()
    else:
        assert type(ours) is type(wanted)
        assert ours == wanted


def test_every_field_is_that_of_the_generated_code(image: bytes) -> None:
    seen: set[str] = set()
    _same(Record.root("Model", memoryview(image)), theirs.ModelT.InitFromPackedBuf(image, 0), seen)
    assert {"newShape", "compositeAttributes", "zeroPoint", "blockSize", "arraySegments", "dilationHFactor"} <= seen


def test_names_are_those_of_the_enumerations() -> None:
    assert numbers_of("BuiltinOperator")["STABLEHLO_COMPOSITE"] == theirs.BuiltinOperator.STABLEHLO_COMPOSITE
    assert numbers_of("TensorType")["BFLOAT16"] == theirs.TensorType.BFLOAT16


def _walk(value: Any) -> None:
    if isinstance(value, Record):
        for one in value.items().values():
            _walk(one)
    elif isinstance(value, list):
        for one in value:
            _walk(one)


def test_damaged_bytes_raise_what_speaks_of_the_file(image: bytes) -> None:
    draw = np.random.RandomState(0)
    broken = 0
    for _ in range(300):
        damaged = bytearray(image)
        for place in draw.randint(0, len(image), 4):
            damaged[place] = draw.randint(256)
        try:
            _walk(Record.root("Model", memoryview(bytes(damaged))))
        except (struct.error, ValueError, KeyError, OverflowError):
            broken += 1
    assert broken > 20
