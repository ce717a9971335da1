"""A graph as JSON: operators, shapes, attributes; no weights, no names of tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sdmobile.basics.untrusted import MAX_INTEGER
from sdmobile.formats.graph import FileGraph, Operation, Tensor

_MOST_SIZE, _MOST_AXES = 1 << 31, 8  # a file's sizes are int32


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
    """Returns the graph of what `encode` gave; tensors are named t0, t1, ...

    Raises:
        ValueError, KeyError, TypeError: it is none such, which may be somebody else's doing.
    """
    tensors = {f"t{i}": _tensor(f"t{i}", *entry) for i, entry in enumerate(known["tensors"])}
    operations = tuple(_operation(tensors, *entry) for entry in known["operations"])
    if not operations:
        raise ValueError("a graph has operators")
    ends = (_names(tensors, known["inputs"]), _names(tensors, known["outputs"]))
    if known["format"] not in ("tflite", "mlprogram"):
        raise ValueError(f"no format of a model file: {known['format']!r}")
    return FileGraph(known["format"], tensors, operations, *ends, _count(known["file_bytes"]))


def _tensor(name: str, dtype: Any, shape: Any, stored: Any) -> Tensor:
    sizes = tuple(_count(size, _MOST_SIZE) for size in _list(shape))
    if len(sizes) > _MOST_AXES:
        raise ValueError(f"a tensor of {len(sizes)} axes")
    return Tensor(name, sizes, _text(dtype), stored is not None, 0 if stored is None else _count(stored))


def _operation(tensors: Collection[str], kind: Any, name: Any, inputs: Any, outputs: Any, attributes: Any) -> Operation:
    if not isinstance(attributes, dict):
        raise TypeError("attributes have names")
    return Operation(_text(kind), _text(name), _names(tensors, inputs), _names(tensors, outputs), attributes)


def _names(tensors: Collection[str], numbers: Any) -> tuple[str, ...]:
    names = tuple(f"t{_count(number)}" for number in _list(numbers))
    if unknown := [name for name in names if name not in tensors]:
        raise ValueError(f"there is no tensor {unknown[0]}")
    return names


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a list, not {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text, not {type(value).__name__}")
    return value


def _count(value: Any, most: int = MAX_INTEGER) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"a number from 0 to {most}, not {value!r}")
    return value


def _plain(value: Any) -> Any:
    """Returns an attribute as JSON knows it: tuples and arrays as lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
