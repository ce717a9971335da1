"""The float16 weights of a `.tflite` file, and how they become float32 constants that a quantiser accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

# BuiltinOperator and TensorType of the TFLite schema (schema.fbs).
_DEQUANTIZE = 6
_FLOAT32, _FLOAT16 = 0, 1
_WEIGHT_OPERATORS = {
    3: ("CONV_2D", 1),
    4: ("DEPTHWISE_CONV_2D", 1),
    7: ("EMBEDDING_LOOKUP", 1),
    9: ("FULLY_CONNECTED", 1),
    67: ("CONV_2D_TRANSPOSE", 1),
}


@dataclass(frozen=True, eq=False)
class TFLiteWeight:
    """A float16 constant that goes through DEQUANTIZE into operators with weights.

    Args:
        name: of the constant in the file.
        module: dotted path of the module of the first operator that uses it.
        operator: AEQ's name of that operator.
        scopes: names of the operators that use it, as AEQ matches them.
        values: float16, of the tensor's shape; a view of the file.
        subgraph: index of the subgraph.
        tensor: index of the constant.
        wide: index of what DEQUANTIZE makes of it.
    """

    name: str
    module: str
    operator: str
    scopes: tuple[str, ...]
    values: NDArray[np.float16]
    subgraph: int
    tensor: int
    wide: int


def read_model(path: Path) -> Any:
    """Returns the model of a file; its buffers are views of the file."""
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils as utils

    return utils.read_model(utils.get_model_content(path))


def float16_weights(model: Any) -> tuple[TFLiteWeight, ...]:
    """Returns the weights of convolutions, matrix products and tables that are stored as float16."""
    return tuple(weight for index in range(len(model.subgraphs)) for weight in _of_subgraph(model, index))


def expand(model: Any, weights: Iterable[TFLiteWeight]) -> None:
    """Turns some float16 weights into float32 constants and drops their DEQUANTIZE, in place.

    The DEQUANTIZE's output tensor becomes the constant under the name of the float16 tensor, which goes.
    """
    for index, subgraph in enumerate(model.subgraphs):
        chosen = {weight.tensor: weight for weight in weights if weight.subgraph == index}
        if not chosen:
            continue
        for weight in chosen.values():
            narrow, wide = subgraph.tensors[weight.tensor], subgraph.tensors[weight.wide]
            wide.name, wide.buffer = narrow.name, narrow.buffer
            wide_values = weight.values.astype(np.float32)
            model.buffers[narrow.buffer].data = wide_values.reshape(-1).view(np.uint8)
        subgraph.operators = [
            op for op in subgraph.operators if not (_code(model, op) == _DEQUANTIZE and int(op.inputs[0]) in chosen)
        ]
        _drop_tensors(model, index, set(chosen))


def _of_subgraph(model: Any, index: int) -> list[TFLiteWeight]:
    from ai_edge_quantizer.utils.tfl_flatbuffer_utils import get_op_scope

    subgraph = model.subgraphs[index]
    shared = _buffer_users(model)
    users: dict[int, list[tuple[Any, int]]] = {}
    for op in subgraph.operators:
        for position, tensor in enumerate(op.inputs):
            users.setdefault(int(tensor), []).append((op, position))
    found = []
    for op in subgraph.operators:
        if _code(model, op) != _DEQUANTIZE:
            continue
        narrow, wide = int(op.inputs[0]), int(op.outputs[0])
        tensor, uses = subgraph.tensors[narrow], users.get(wide, [])
        data = model.buffers[tensor.buffer].data
        known = [_WEIGHT_OPERATORS.get(_code(model, user), ("", -1)) for user, _ in uses]
        weight_only = bool(uses) and all(place == at for (_, place), (_, at) in zip(known, uses, strict=True))
        if data is None or tensor.type != _FLOAT16 or not weight_only or len(users[narrow]) > 1:
            continue
        if shared[tensor.buffer] > 1 or wide in {int(output) for output in subgraph.outputs}:
            continue
        values = np.frombuffer(data, np.float16).reshape([int(size) for size in tensor.shape])
        scopes = tuple(dict.fromkeys(get_op_scope(user, subgraph.tensors) for user, _ in uses))
        name = tensor.name.decode()
        found.append(TFLiteWeight(name, module_of(scopes[0]), known[0][0], scopes, values, index, narrow, wide))
    return found


def module_of(scope: str) -> str:
    """Returns the module path in an operator's name: what stands before the first semicolon."""
    return scope.split(";")[0]


def _buffer_users(model: Any) -> dict[int, int]:
    counts: dict[int, int] = {}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            counts[tensor.buffer] = counts.get(tensor.buffer, 0) + 1
    return counts


def _code(model: Any, op: Any) -> int:
    code = model.operatorCodes[op.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def _drop_tensors(model: Any, index: int, gone: set[int]) -> None:
    """Removes tensors that nothing uses and renumbers the rest."""
    subgraph = model.subgraphs[index]
    kept = [number for number in range(len(subgraph.tensors)) if number not in gone]
    new = {old: number for number, old in enumerate(kept)} | {-1: -1}
    subgraph.tensors = [subgraph.tensors[number] for number in kept]
    subgraph.inputs, subgraph.outputs = _renumbered(subgraph.inputs, new), _renumbered(subgraph.outputs, new)
    for op in subgraph.operators:
        op.inputs, op.outputs = _renumbered(op.inputs, new), _renumbered(op.outputs, new)
        if op.intermediates is not None and len(op.intermediates):
            op.intermediates = _renumbered(op.intermediates, new)
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == index:
            for entry in [*signature.inputs, *signature.outputs]:
                entry.tensorIndex = new[entry.tensorIndex]


def _renumbered(tensors: Any, new: dict[int, int]) -> list[int]:
    return [new[int(tensor)] for tensor in tensors]
