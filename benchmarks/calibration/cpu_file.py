"""Writes a neutral graph as a `.tflite` file with random float32 weights, without a converter.

It is the inverse of `graph/tflite.py` as far as time is concerned: operators, shapes, options and small integer
constants are those of the graph; weights are random, larger integer constants are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph import FileGraph, Operation, Tensor
from sdmobile.formats.graph.tflite import CONSTANT_INPUTS

_LAST_OLD_CODE = 127  # operators up to this one are also stored in the byte that old readers know
_OPTIONS = {  # where the options' name is not the operator's own
    "mean": "ReducerOptions",
    "sum": "ReducerOptions",
    "reduce_max": "ReducerOptions",
    "reduce_min": "ReducerOptions",
    "average_pool_2d": "Pool2DOptions",
    "max_pool_2d": "Pool2DOptions",
    "conv_2d": "Conv2DOptions",
    "depthwise_conv_2d": "DepthwiseConv2DOptions",
    "batch_matmul": "BatchMatMulOptions",
    "select_v2": "SelectV2Options",
}
_NUMBERS = {"float32": np.float32, "int32": np.int32, "int64": np.int64, "bool": np.bool_}


def tflite_file(graph: FileGraph) -> bytes:
    """Returns a graph as a file.

    Args:
        graph: of plain operators.

    Raises:
        UnsupportedError: the graph has composites, whose definitions a neutral graph does not hold.
    """
    composites = sorted({operation.kind for operation in graph.operations if operation.kind.startswith("odml.")})
    if graph.format != "tflite" or composites:
        raise UnsupportedError(
            "a graph to write must consist of TFLite's own operators", ", ".join(composites) or graph.format
        )
    return _Writer(graph).file()


class _Writer:
    """A file under construction."""

    def __init__(self, graph: FileGraph) -> None:
        from ai_edge_litert import schema_py_generated

        self._schema: Any = schema_py_generated
        self._graph = graph
        self._random = np.random.default_rng(0)
        self._numbers: dict[str, int] = {}
        self._model = self._schema.ModelT()
        self._model.version = 3
        self._model.description = "random weights"
        self._model.buffers = [self._schema.BufferT()]
        self._model.operatorCodes, self._model.signatureDefs, self._model.metadata = [], [], []
        self._main = self._schema.SubGraphT()
        self._main.name = "main"
        self._main.tensors, self._main.operators = [], []
        self._model.subgraphs = [self._main]

    def file(self) -> bytes:
        """Returns the flatbuffer."""
        import flatbuffers

        known = {
            name: values
            for operation in self._graph.operations
            for position, values in operation.attributes.get(CONSTANT_INPUTS, {}).items()
            for name in (operation.inputs[int(position)],)
        }
        for tensor in self._graph.tensors.values():
            self._tensor(tensor, known.get(tensor.name))
        self._main.operators = [self._operator(operation) for operation in self._graph.operations]
        self._main.inputs = [self._numbers[name] for name in self._graph.inputs]
        self._main.outputs = [self._numbers[name] for name in self._graph.outputs]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _tensor(self, tensor: Tensor, known: list[int] | None) -> None:
        dtype = "float32" if tensor.dtype.startswith("float") else tensor.dtype
        stored = self._schema.TensorT()
        stored.name, stored.shape = tensor.name, list(tensor.shape)
        stored.type, stored.buffer = getattr(self._schema.TensorType, dtype.upper()), 0
        if tensor.constant:
            buffer = self._schema.BufferT()
            buffer.data = np.frombuffer(self._values(tensor, dtype, known).tobytes(), np.uint8)
            self._model.buffers.append(buffer)
            stored.buffer = len(self._model.buffers) - 1
        self._numbers[tensor.name] = len(self._main.tensors)
        self._main.tensors.append(stored)

    def _values(self, tensor: Tensor, dtype: str, known: list[int] | None) -> np.ndarray:
        """Returns constants; weights have the deviation that keeps the size of activations."""
        if known is not None:
            return np.array(known, _NUMBERS[dtype]).reshape(tensor.shape)
        if dtype != "float32":
            return np.zeros(tensor.shape, _NUMBERS[dtype])
        scale = 1.0 / math.sqrt(max(1, math.prod(tensor.shape[1:])))
        return self._random.standard_normal(tensor.shape, np.float32) * np.float32(scale)

    def _operator(self, operation: Operation) -> Any:
        stored = self._schema.OperatorT()
        stored.opcodeIndex = self._code(operation.kind.upper())
        stored.inputs = [self._numbers[name] for name in operation.inputs]
        stored.outputs = [self._numbers[name] for name in operation.outputs]
        name = _OPTIONS.get(operation.kind) or "".join(p.capitalize() for p in operation.kind.split("_")) + "Options"
        if hasattr(self._schema.BuiltinOptions, name):
            stored.builtinOptionsType = getattr(self._schema.BuiltinOptions, name)
            stored.builtinOptions = _options(getattr(self._schema, name + "T")(), operation.attributes)
        return stored

    def _code(self, kind: str) -> int:
        number = getattr(self._schema.BuiltinOperator, kind)
        for index, code in enumerate(self._model.operatorCodes):
            if code.builtinCode == number:
                return index
        code = self._schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, _LAST_OLD_CODE), 1
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1


def _options(options: Any, attributes: Mapping[str, Any]) -> Any:
    for key, value in attributes.items():
        if key != CONSTANT_INPUTS and hasattr(options, key):
            setattr(options, key, value)
    return options
