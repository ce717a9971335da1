"""Writes a part of a `.tflite` file as a file of its own, with the bytes that it has there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIGNATURE = "main"
OUTPUT = "output"


def input_name(position: int) -> str:
    """Returns what a written part calls the input at a position."""
    return f"input_{position}"


def cut(path: Path, graph: int, operators: Sequence[int], inputs: Sequence[int], output: int) -> bytes:
    """Returns a file that computes one tensor of another file from some of its tensors.

    Tensors keep their numbers and names. Weights that the part does not need are left out.

    Args:
        path: the whole file; its weights lie inside the flatbuffer.
        graph: index of the subgraph.
        operators: indices of the operators that are kept, those that widen its constants included.
        inputs: indices of the tensors that are fed; the signature calls them `input_0`, `input_1`, …
        output: index of the tensor that is computed; the signature calls it `output`.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    schema: Any = flatbuffer_utils.schema_fb
    model: Any = flatbuffer_utils.read_model(str(path))
    part = model.subgraphs[graph]
    part.operators = [part.operators[index] for index in operators]
    _empty(model, part)
    part.inputs, part.outputs = list(inputs), [output]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, graph
    signature.inputs = [_entry(schema, input_name(place), tensor) for place, tensor in enumerate(inputs)]
    signature.outputs = [_entry(schema, OUTPUT, output)]
    model.signatureDefs = [signature]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _empty(model: Any, part: Any) -> None:
    """Empties the buffers that neither the operators of a subgraph nor the other subgraphs use."""
    used = {int(index) for op in part.operators for index in (*op.inputs, *op.outputs) if index >= 0}
    kept = {part.tensors[index].buffer for index in used}
    kept |= {tensor.buffer for other in model.subgraphs if other is not part for tensor in other.tensors}
    for number, buffer in enumerate(model.buffers):
        if number not in kept:
            buffer.data = None


def _entry(schema: Any, name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, tensor
    return entry
