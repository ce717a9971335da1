"""A graph as JSON: operators, shapes, attributes; no weights, no names of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdmobile.formats.graph import FileGraph, Operation, Tensor


def encode(graph: FileGraph) -> dict[str, Any]:
    """Returns a graph as a JSON object; tensors are numbered in the order in which operators mention them."""
    numbers: dict[str, int] = {}
    for operation in graph.operations:
        for name in (*operation.inputs, *operation.outputs):
            numbers.setdefault(name, len(numbers))
    for name in (*graph.inputs, *graph.outputs):
        numbers.setdefault(name, len(numbers))
    tensors = (graph.tensors[name] for name in numbers)
    return {
        "format": graph.format,
        "file_bytes": graph.file_bytes,
        "inputs": [numbers[name] for name in graph.inputs],
        "outputs": [numbers[name] for name in graph.outputs],
        "tensors": [[t.dtype, list(t.shape), t.stored_bytes if t.constant else None] for t in tensors],
        "operations": [
            [o.kind, o.name, [numbers[n] for n in o.inputs], [numbers[n] for n in o.outputs], _plain(o.attributes)]
            for o in graph.operations
        ],
    }


def decode(known: Mapping[str, Any]) -> FileGraph:
    """Returns the graph of what `encode` gave; tensors are named t0, t1, ..."""
    tensors = {
        f"t{i}": Tensor(f"t{i}", tuple(shape), dtype, stored is not None, stored or 0)
        for i, (dtype, shape, stored) in enumerate(known["tensors"])
    }
    operations = tuple(
        Operation(kind, name, _names(inputs), _names(outputs), attributes)
        for kind, name, inputs, outputs, attributes in known["operations"]
    )
    ends = (_names(known["inputs"]), _names(known["outputs"]))
    return FileGraph(known["format"], tensors, operations, *ends, known["file_bytes"])


def _names(numbers: list[int]) -> tuple[str, ...]:
    return tuple(f"t{number}" for number in numbers)


def _plain(value: Any) -> Any:
    """Returns an attribute as JSON knows it: tuples and arrays as lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
