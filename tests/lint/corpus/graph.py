"""Writes small `.tflite` files, operator by operator, with every version, type, shape and option chosen freely."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated

Shape = tuple[int, ...]
schema: Any = schema_py_generated  # the generated types say "or None" everywhere

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "int16": schema.TensorType.INT16,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int4": schema.TensorType.INT4,
    "bool": schema.TensorType.BOOL,
}
_LAST_OLD_CODE = 127  # operators up to this one are also stored in the byte that old readers know


class Graph:
    """A model of one subgraph under construction; every method returns tensor indices.

    Args:
        decompositions: number of empty subgraphs to append, for operators that name one.
    """

    def __init__(self, decompositions: int = 0) -> None:
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.description = "sdmobile lint corpus"
        self._model.buffers = [schema.BufferT()]
        self._model.operatorCodes = []
        self._model.subgraphs = [_subgraph("main")] + [_subgraph(f"part{i}") for i in range(decompositions)]
        self._model.signatureDefs = []
        self._model.metadata = []
        self._main = self._model.subgraphs[0]

    def input(self, shape: Shape, dtype: str = "float32") -> int:
        """Adds an input of the model."""
        index = self.tensor(shape, dtype)
        self._main.inputs.append(index)
        return index

    def const(self, values: Any, dtype: str = "int32", name: str | None = None) -> int:
        """Adds a constant; for int4, `values` are the unpacked elements."""
        array = np.asarray(values, np.int8 if dtype == "int4" else np.dtype(dtype))
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(_packed(array) if dtype == "int4" else array.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        index = self.tensor(array.shape, dtype, name)
        self._main.tensors[index].buffer = len(self._model.buffers) - 1
        return index

    def weights(self, *shape: int, dtype: str = "float32") -> int:
        """Adds a constant with values that differ from one another."""
        values = np.linspace(-1, 1, int(np.prod(shape)) or 1).reshape(shape)
        return self.const(np.round(values * 7) if dtype.startswith(("int", "uint")) else values, dtype)

    def tensor(self, shape: Shape, dtype: str = "float32", name: str | None = None) -> int:
        """Adds a tensor that an operator fills."""
        tensor = schema.TensorT()
        tensor.shape = list(shape)
        tensor.type = _TYPES[dtype]
        tensor.name = name or f"corpus.Case;{len(self._main.tensors)}"
        tensor.hasRank = True
        self._main.tensors.append(tensor)
        return len(self._main.tensors) - 1

    def quantized(self, tensor: int, scales: list[float], zeros: list[int] | None = None, axis: int = 0) -> int:
        """Declares the quantization of a tensor."""
        parameters = schema.QuantizationParametersT()
        parameters.scale = scales
        parameters.zeroPoint = zeros or [0] * len(scales)
        parameters.quantizedDimension = axis
        self._main.tensors[tensor].quantization = parameters
        return tensor

    def op(
        self,
        name: str,
        inputs: list[int],
        *outputs: Shape | int,
        version: int = 1,
        dtype: str = "float32",
        options: Any = None,
        options2: Any = None,
        custom: str | None = None,
    ) -> list[int]:
        """Adds an operator.

        Args:
            name: builtin name, for example "ADD".
            inputs: tensor indices; -1 leaves an optional input out.
            outputs: shapes of new tensors, or indices of tensors made before.
            version: version of the operator.
            dtype: element type of the new tensors.
            options: an options object of the schema, such as `schema.AddOptionsT()`.
            options2: the same for the operators of the second union (StableHLO).
            custom: name of a custom operator.

        Returns:
            Indices of the outputs.
        """
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(name, version, custom)
        operator.inputs = list(inputs)
        operator.outputs = [item if isinstance(item, int) else self.tensor(item, dtype) for item in outputs]
        operator.builtinOptions, operator.builtinOptionsType = options, _union(schema.BuiltinOptions, options)
        operator.builtinOptions2, operator.builtinOptions2Type = options2, _union(schema.BuiltinOptions2, options2)
        self._main.operators.append(operator)
        return list(operator.outputs)

    def bytes(self, *outputs: int) -> bytes:
        """Returns the file with these outputs of the model."""
        self._main.outputs = list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _code(self, name: str, version: int, custom: str | None) -> int:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, _LAST_OLD_CODE)
        code.version = version
        code.customCode = custom
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1


def options(name: str, **fields: Any) -> Any:
    """Returns an options object of the schema, for example options("Conv2D", strideH=2)."""
    made = getattr(schema, f"{name}OptionsT")()
    for field, value in fields.items():
        if not hasattr(made, field):
            raise AttributeError(f"{name}Options has no field {field}")
        setattr(made, field, value)
    return made


def _subgraph(name: str) -> Any:
    made = schema.SubGraphT()
    made.name, made.tensors, made.operators, made.inputs, made.outputs = name, [], [], [], []
    return made


def _union(enum: type, made: Any) -> int:
    return 0 if made is None else getattr(enum, type(made).__name__.removesuffix("T"))


def _packed(values: np.ndarray) -> bytes:
    """Two int4 in a byte, the first in the low half."""
    flat = (values.reshape(-1) & 0xF).astype(np.uint8)
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return (flat[0::2] | (flat[1::2] << 4)).tobytes()
