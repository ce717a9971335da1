"""Reads the constants of a `.tflite` file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.formats.tflite.reader import read_model
from sdmobile.validate.weights.stored import (
    NATURAL,
    Coding,
    Epsilon,
    FileConstants,
    Float,
    Steps,
    StoredArray,
    Use,
    belongs_to,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from sdmobile.formats.tflite.model import Graph, Node, Tensor
    from sdmobile.validate.bisect.graph import ModuleNames

_DEQUANTIZE = "DEQUANTIZE"
_OHWI, _HWO, _TRANSPOSED = (0, 2, 3, 1), (1, 2, 3, 0), (1, 0)
_PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_NUMBERS = {"FLOAT16": 16, "FLOAT32": 32, "INT8": 8, "INT4": 4}
Taken = list[tuple["Node", int]]


def read_file(path: Path, names: ModuleNames) -> FileConstants:
    """Returns the constants of a file's floating-point numbers, of the decompositions of its composites too.

    Args:
        path: the `.tflite` file.
        names: of the component's modules.
    """
    arrays: list[StoredArray] = []
    scalars: list[Epsilon] = []
    graphs = read_model(path).graphs
    owners = _owners(graphs, names)
    for index, graph in enumerate(graphs):
        users = _users(graph)
        for node in graph.nodes:
            if node.composite is not None and "epsilon" in node.composite.attributes:
                value = float(node.composite.attributes["epsilon"])
                scalars.append(Epsilon(f"epsilon of {node.composite.name}", _of_nodes([node], names), value, True))
        for tensor in graph.tensors:
            if not tensor.constant or tensor.dtype not in _NUMBERS:
                continue
            taken = list(_through_dequantize(users.get(tensor.index, []), users))
            if not taken:
                continue
            modules = owners[index] if index in owners else _modules(tensor, taken, names)
            if tensor.elements > 1:
                arrays.append(_array(graph, tensor, modules, taken))
            elif tensor.dtype.startswith("FLOAT") and (values := tensor.values()) is not None:
                value = float(values.reshape(-1)[0])
                scalars.append(Epsilon(tensor.name, modules, value, False, index in owners))
    return FileConstants(tuple(arrays), tuple(scalars))


def _owners(graphs: tuple[Graph, ...], names: ModuleNames) -> dict[int, frozenset[str]]:
    """Returns the modules of the composites that each decomposition stands for."""
    owners: dict[int, set[str]] = {}
    for graph in graphs:
        for node in graph.nodes:
            if node.composite is not None and node.composite.decomposition is not None:
                owners.setdefault(node.composite.decomposition, set()).update(_of_nodes([node], names))
    return {index: frozenset(modules) for index, modules in owners.items()}


def _users(graph: Graph) -> dict[int, Taken]:
    users: dict[int, Taken] = {}
    for node in graph.nodes:
        for place, tensor in enumerate(node.inputs):
            if tensor is not None:
                users.setdefault(tensor.index, []).append((node, place))
    return users


def _through_dequantize(taken: Taken, users: dict[int, Taken]) -> Iterator[tuple[Node, int]]:
    """Yields who takes a constant, through the operation that turns it into float32."""
    for node, place in taken:
        if node.op == _DEQUANTIZE:
            yield from users.get(node.outputs[0].index, [])
        else:
            yield node, place


def _of_nodes(nodes: list[Node], names: ModuleNames) -> frozenset[str]:
    return frozenset(filter(None, (place_of(node.outputs[0].name, names) for node in nodes)))


def place_of(name: str, names: ModuleNames) -> str | None:
    """Returns the module of a tensor: the first place of its name, else one in it that has parameters.

    A convolution with a fused activation has the activation's name first. An attention's projection has the attention's
    first and its own last; one that it shares a converted input with may stand between them. Where the component's own
    forward pass calls the projections, that stands first, which is no module of the checkpoint.
    """
    first = names.of_location(name)
    if first is not None and names.has_parameters(first):
        return first
    places = [names.of_path(place) for place in name.split(";")]
    owning = [place for place in places if place is not None and names.has_parameters(place)]
    inside = [place for place in owning if first is None or place.startswith(f"{first}.")]
    return inside[-1] if inside else next(iter(owning), first)


def _modules(tensor: Tensor, taken: Taken, names: ModuleNames) -> frozenset[str]:
    taking = [place_of(node.outputs[0].name, names) for node, _ in taken]
    return belongs_to(place_of(tensor.name, names), taking, names)


def _array(graph: Graph, tensor: Tensor, modules: frozenset[str], taken: Taken) -> StoredArray:
    coding = _coding(graph, tensor)
    return StoredArray(
        tensor.name,
        modules,
        frozenset(_use(node, place) for node, place in taken),
        frozenset(_order(node, place) for node, place in taken),
        tensor.shape,
        coding,
        lambda: _decoded(tensor, coding),
    )


def _use(node: Node, place: int) -> Use:
    if node.op in _PRODUCTS:
        return {1: Use.WEIGHT, 2: Use.BIAS}.get(place, Use.OTHER)
    if node.composite is not None:
        return {1: Use.WEIGHT, 2: Use.BIAS}.get(place, Use.OTHER) if "norm" in node.composite.name else Use.OTHER
    return {"MUL": Use.WEIGHT, "ADD": Use.BIAS, "EMBEDDING_LOOKUP": Use.WEIGHT, "GATHER": Use.WEIGHT}.get(
        node.op, Use.OTHER
    )


def _order(node: Node, place: int) -> tuple[int, ...]:
    """Returns how a kernel of PyTorch lies in an operand of an operator."""
    if node.op in ("CONV_2D", "TRANSPOSE_CONV"):
        return _OHWI
    if node.op == "DEPTHWISE_CONV_2D":
        return _HWO
    if node.op == "BATCH_MATMUL":
        adjoint = bool(node.options.get("adjX" if place == 0 else "adjY"))
        return NATURAL if adjoint == (place == 1) else _TRANSPOSED
    return NATURAL


def _coding(graph: Graph, tensor: Tensor) -> Coding:
    bits, stated = _NUMBERS[tensor.dtype], tensor.quantization
    if tensor.dtype.startswith("FLOAT") or stated is None:
        return Float(bits if tensor.dtype.startswith("FLOAT") else 32)
    if stated.holder is not None:
        held = graph.tensors[stated.holder].values()
        assert held is not None
        rows = held.astype(np.float32).reshape(tensor.shape[0], -1)
        steps = np.repeat(rows, tensor.elements // tensor.shape[0] // rows.shape[1], 1).reshape(tensor.shape)
        return Steps(steps, bits, False)
    assert stated.values is not None
    along = [-1 if i == stated.axis else 1 for i in range(tensor.rank)]
    steps = np.asarray(stated.values, np.float32)
    return Steps(
        steps.reshape(along) if steps.size > 1 else steps.reshape([1] * tensor.rank),
        bits,
        stated.zeros is not None and bool(np.any(stated.zeros)),
    )


def _decoded(tensor: Tensor, coding: Coding) -> NDArray[Any]:
    if not isinstance(coding, Steps):
        values = tensor.values()
        if values is None:
            raise ValueError(f"{tensor.name} holds {0 if tensor.data is None else len(tensor.data)} bytes for {tensor}")
        return values.astype(np.float32)
    data = np.frombuffer(tensor.data or b"", np.uint8)
    if coding.bits == 4:  # the lower half of a byte first
        data = (np.stack([data << 4, data & 0xF0], axis=1).reshape(-1)[: tensor.elements].view(np.int8) >> 4).view(
            np.uint8
        )
    integers = data.view(np.int8).reshape(tensor.shape).astype(np.float32)
    stated = tensor.quantization
    if stated is not None and stated.zeros is not None and np.any(stated.zeros):
        zeros = np.asarray(stated.zeros, np.float32)
        integers = integers - (zeros.reshape([-1 if i == stated.axis else 1 for i in range(tensor.rank)]))
    return integers * coding.steps
