"""Lets matrix products with integer weights keep the rank of what they multiply, which ML Drift needs.

LiteRT's converter lets a linear layer with a bias and a batch of 1 drop the leading axis. With float weights the
Android GPU takes that; with integer weights and activations quantised at run time it refuses the file, or scales values
wrongly (lint rule `hybrid-rank`). The values are the same, so that the axis can stay:

    x [1, 80, 64] ─▶ FULLY_CONNECTED ─▶ [80, 256] ─▶ GELU ─▶ [80, 256] ─▶ RESHAPE ─▶ [1, 80, 256]
    x [1, 80, 64] ─▶ FULLY_CONNECTED, keep_num_dims ─▶ [1, 80, 256] ─▶ GELU ─▶ [1, 80, 256] ─▶ RESHAPE ─▶ [1, 80, 256]

Where an operator that follows would not mean the same, a RESHAPE is put between. A product that joins more than leading
axes, x [1, 4, 4, 16] by weights [256, 256], has its RESHAPE before it: keep_num_dims wants the weights' width last.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sdmobile.device_profiles.runtime_rules.tflite_operators import words

_UNARY = frozenset(words("ABS COS EXP GELU HARD_SWISH LOGISTIC NEG RELU RELU6 RSQRT SIN SQRT SQUARE TANH"))
_BINARY = frozenset(words("ADD DIV MAXIMUM MINIMUM MUL SUB"))


@dataclass
class _Graph:
    """One subgraph of AEQ's model, with who reads what."""

    model: Any
    index: int
    readers: dict[int, list[Any]] = field(default_factory=dict)
    makers: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for op in self.part.operators:
            self.makers |= {int(tensor): op for tensor in op.outputs}
            for tensor in {int(tensor) for tensor in op.inputs}:
                self.readers.setdefault(tensor, []).append(op)

    @property
    def part(self) -> Any:
        return self.model.subgraphs[self.index]

    def name(self, op: Any) -> str:
        """Returns the schema's name of an operator."""
        return _names()[self.model.operatorCodes[op.opcodeIndex].builtinCode]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        found = self.part.tensors[tensor].shape
        return () if found is None else tuple(int(size) for size in found)

    def stored(self, tensor: int) -> bool:
        """Returns whether the file holds a tensor's values."""
        return tensor not in self.makers and tensor not in {int(one) for one in self.part.inputs}


def keep_ranks(model: Any, weights: Collection[tuple[int, int]]) -> int:
    """Changes matrix products that drop axes so that they keep them, in AEQ's model of a file.

    Args:
        model: changed in place.
        weights: the integer weights whose activations are quantised at run time: subgraph and tensor.

    Returns:
        The number of products that were changed.
    """
    return sum(_keep_in(_Graph(model, index), weights) for index in range(len(model.subgraphs)))


def _keep_in(graph: _Graph, weights: Collection[tuple[int, int]]) -> int:
    changed = 0
    for op in list(graph.part.operators):
        if graph.name(op) != "FULLY_CONNECTED" or (graph.index, int(op.inputs[1])) not in weights:
            continue
        result, first = int(op.outputs[0]), graph.shape(int(op.inputs[0]))
        wide = (*first[:-1], graph.shape(result)[-1])
        if len(graph.shape(result)) == len(first):
            continue
        if first[-1:] != graph.shape(int(op.inputs[1]))[-1:]:
            _reshape_before(graph, op)
            changed += 1
            continue
        op.builtinOptions.keepNumDims = True
        lifted = _lifted(graph, result, wide)
        if lifted is None:
            _reshape_after(graph, op, wide)
        else:
            for tensor, shape in lifted.items():
                _lift(graph, tensor, shape)
        changed += 1
    return changed


def _lifted(graph: _Graph, tensor: int, wide: tuple[int, ...]) -> dict[int, tuple[int, ...]] | None:
    """Returns the new shape of a tensor and of all that must follow it, None where a reader forbids that."""
    found: dict[int, tuple[int, ...]] = {}
    waiting = [(tensor, wide)]
    outputs = {int(one) for one in graph.part.outputs}
    while waiting:
        current, shape = waiting.pop()
        if current in found:
            continue
        if current in outputs:
            return None
        found[current] = shape
        for reader in graph.readers.get(current, []):
            following = _following(graph, reader, current, shape)
            if following is None:
                return None
            waiting += following.items()
    return found if _agree(graph, found) else None


def _following(graph: _Graph, reader: Any, tensor: int, wide: tuple[int, ...]) -> dict[int, tuple[int, ...]] | None:
    """Returns the outputs of a reader that become wide with a tensor, None where it would not mean the same."""
    name, result = graph.name(reader), int(reader.outputs[0])
    if name == "RESHAPE":
        return {}
    if name == "FULLY_CONNECTED" and int(reader.inputs[0]) == tensor:
        made = (*wide[:-1], graph.shape(result)[-1])
        return {} if graph.shape(result) == made else {result: made}
    if name in _UNARY:
        return {result: wide}
    if name in _BINARY:
        return {} if graph.shape(result) == wide else {result: wide}
    return None


def _agree(graph: _Graph, found: dict[int, tuple[int, ...]]) -> bool:
    """Returns whether both sides of every pair that is touched have the same rank, or one side is a row or a number."""
    for tensor, wide in found.items():
        for reader in graph.readers.get(tensor, []):
            if graph.name(reader) not in _BINARY:
                continue
            for other in (int(one) for one in reader.inputs):
                shape = found.get(other, graph.shape(other))
                row = graph.stored(other) and len(shape) <= 1
                if other != tensor and not row and shape != wide:
                    return False
    return True


def _lift(graph: _Graph, tensor: int, shape: tuple[int, ...]) -> None:
    graph.part.tensors[tensor].shape = list(shape)
    if graph.part.tensors[tensor].shapeSignature is not None:
        graph.part.tensors[tensor].shapeSignature = list(shape)
    maker = graph.makers.get(tensor)
    if maker is not None and graph.name(maker) == "FULLY_CONNECTED":
        maker.builtinOptions.keepNumDims = True


def _reshape_before(graph: _Graph, op: Any) -> None:
    """Lets a product take a matrix, which a RESHAPE makes of its input."""
    from copy import copy

    given = int(op.inputs[0])
    shape = (graph.shape(int(op.outputs[0]))[0], graph.shape(int(op.inputs[1]))[-1])
    made = copy(graph.part.tensors[given])
    flat = _added(graph, made, f"sdmobile.flat.{graph.index}.{len(graph.part.tensors)}".encode())
    _lift(graph, flat, shape)
    _insert(graph, given, flat, before=op)
    op.inputs = [flat, *(int(one) for one in op.inputs[1:])]
    graph.readers[given] = [one for one in graph.readers[given] if one is not op] + [graph.makers[flat]]
    graph.readers[flat] = [op]


def _reshape_after(graph: _Graph, op: Any, wide: tuple[int, ...]) -> None:
    """Lets a product write a new tensor of the full rank, from which a RESHAPE makes the old one."""
    from copy import copy

    old = int(op.outputs[0])
    narrow = graph.part.tensors[old]
    kept = _added(graph, copy(narrow), narrow.name)  # the old name, by which AEQ's recipe knows the operator
    narrow.name = narrow.name + b";rank"
    _lift(graph, kept, wide)
    op.outputs = [kept]
    graph.makers[kept] = op
    _insert(graph, kept, old, after=op)
    graph.readers[kept] = [graph.makers[old]]


def _added(graph: _Graph, tensor: Any, name: bytes) -> int:
    """Adds a tensor and returns its index; AEQ wants every name once in a file."""
    tensor.name = name
    graph.part.tensors.append(tensor)
    return len(graph.part.tensors) - 1


def _insert(graph: _Graph, source: int, result: int, before: Any = None, after: Any = None) -> None:
    """Puts a RESHAPE of one tensor into another beside an operator."""
    from ai_edge_litert import schema_py_generated

    schema: Any = schema_py_generated
    shape = graph.shape(result)
    reshape = schema.OperatorT()
    reshape.opcodeIndex = _code(graph.model, "RESHAPE")
    reshape.inputs, reshape.outputs = [source, _sizes(graph, shape)], [result]
    reshape.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    reshape.builtinOptions = schema.ReshapeOptionsT()
    reshape.builtinOptions.newShape = list(shape)
    graph.makers[result] = reshape
    operators = list(graph.part.operators)
    place = next(number for number, one in enumerate(operators) if one is (after if before is None else before))
    operators.insert(place + (before is None), reshape)
    graph.part.operators = operators


def _sizes(graph: _Graph, shape: tuple[int, ...]) -> int:
    """Adds a shape as a constant and returns its index."""
    import numpy as np
    from ai_edge_litert import schema_py_generated

    schema: Any = schema_py_generated
    buffer = schema.BufferT()
    buffer.data = np.array(shape, np.int32).view(np.uint8)
    graph.model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.shape, tensor.type = [len(shape)], schema.TensorType.INT32
    tensor.buffer = len(graph.model.buffers) - 1
    return _added(graph, tensor, f"sdmobile.rank.{graph.index}.{len(graph.part.tensors)}".encode())


def _code(model: Any, name: str) -> int:
    """Returns the index of an operator's code, which is added if the file has none."""
    from ai_edge_litert import schema_py_generated

    schema: Any = schema_py_generated
    builtin = getattr(schema.BuiltinOperator, name)
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, builtin, 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _names() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated

    return {value: name for name, value in vars(schema_py_generated.BuiltinOperator).items() if isinstance(value, int)}
