"""Reads a `.tflite` file into the neutral graph; weights stay on disk, above 2 GB behind the flatbuffer, too."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sdmobile.formats.graph.graph import FileGraph, Operation, Tensor
from sdmobile.formats.tflite.model import Graph, Node
from sdmobile.formats.tflite.model import Tensor as Stored
from sdmobile.formats.tflite.names import source_name
from sdmobile.formats.tflite.reader import read_graph

# An operator's small integer constants (axes, permutations, paddings) are kept, because kernels depend on them.
MAX_KEPT_ELEMENTS = 64
CONSTANT_INPUTS = "constant_inputs"
_PLAIN = (bool, int, float, str)


def read_tflite(path: Path) -> FileGraph:
    """Reads a `.tflite` file.

    A composite stays one operation under its own name. DEQUANTIZE of a constant is folded: what consumes it sees a
    constant in the stored element type, as the GPU runtimes do.

    Args:
        path: the file.

    Returns:
        Its main subgraph. `stored_bytes` of a buffer that several tensors share counts for the first of them.

    Raises:
        FormatError: the file is missing, is no `.tflite` file, or is truncated.
    """
    return from_stored(read_graph(path))


def from_stored(graph: Graph) -> FileGraph:
    """Returns the neutral graph of a file that was read before."""
    folded = {
        node.outputs[0].index: source
        for node in graph.nodes
        if node.op == "DEQUANTIZE" and (source := node.input(0)) is not None and source.constant
    }
    nodes = [node for node in graph.nodes if not (node.op == "DEQUANTIZE" and node.outputs[0].index in folded)]
    used = {tensor.index for node in nodes for tensor in (*node.inputs, *node.outputs) if tensor is not None}
    used |= {*graph.inputs, *graph.outputs}
    names = _unique_names(graph.tensors)
    seen: set[int] = set()
    tensors = {
        names[tensor.index]: _tensor(names[tensor.index], folded.get(tensor.index, tensor), seen)
        for tensor in graph.tensors
        if tensor.index in used
    }
    return FileGraph(
        format="tflite",
        tensors=tensors,
        operations=tuple(_operation(node, names) for node in nodes),
        inputs=tuple(names[index] for index in graph.inputs),
        outputs=tuple(names[index] for index in graph.outputs),
        file_bytes=graph.file_bytes,
    )


def _unique_names(tensors: Iterable[Stored]) -> dict[int, str]:
    """Returns a name per tensor; the file's own where no other tensor has it."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for tensor in tensors:
        name = tensor.name or "tensor"
        name = name if name not in taken else f"{name}#{tensor.index}"
        taken.add(name)
        names[tensor.index] = name
    return names


def _tensor(name: str, stored: Stored, seen: set[int]) -> Tensor:
    affine = stored.quantization is not None and stored.quantization.kind == "affine"
    return Tensor(name, stored.shape, stored.dtype.lower(), stored.constant, _stored_bytes(stored, seen), affine)


def _stored_bytes(tensor: Stored, seen: set[int]) -> int:
    """Returns the bytes of a constant in the file, 0 if a tensor before it has the same buffer."""
    if tensor.data is None or not len(tensor.data):
        return 0
    address = np.frombuffer(tensor.data, np.uint8).__array_interface__["data"][0]
    if address in seen:
        return 0
    seen.add(address)
    return len(tensor.data)


def _operation(node: Node, names: dict[int, str]) -> Operation:
    return Operation(
        kind=_kind(node),
        name=source_name(node),
        inputs=tuple(names[tensor.index] for tensor in node.inputs if tensor is not None),
        outputs=tuple(names[tensor.index] for tensor in node.outputs),
        attributes=_attributes(node),
    )


def _kind(node: Node) -> str:
    if node.composite is not None:
        return node.composite.name
    return (node.custom or "custom") if node.op == "CUSTOM" else node.op.lower()


def _attributes(node: Node) -> dict[str, Any]:
    """Returns options and small integer constants as plain values, which JSON can hold."""
    options = node.composite.attributes if node.composite is not None else node.options
    plain = {key: value for key, value in ((key, _plain(value)) for key, value in options.items()) if value is not None}
    constants = {str(i): values for i, tensor in enumerate(_given(node)) if (values := _integers(tensor)) is not None}
    return {**plain, **({CONSTANT_INPUTS: constants} if constants else {})}


def _given(node: Node) -> list[Stored]:
    """Returns the inputs in the order of `Operation.inputs`."""
    return [tensor for tensor in node.inputs if tensor is not None]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple | np.ndarray):
        items = [_plain(item) for item in value]
        return items if all(item is not None for item in items) else None
    return value if isinstance(value, _PLAIN) else None


def _integers(tensor: Stored) -> list[int] | None:
    if not tensor.constant or tensor.dtype not in ("INT32", "INT64") or math.prod(tensor.shape) > MAX_KEPT_ELEMENTS:
        return None
    values = tensor.values()
    return None if values is None else [int(value) for value in values.reshape(-1)]
