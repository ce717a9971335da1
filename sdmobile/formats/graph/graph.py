"""A saved model file as operations and tensors, the same for `.tflite` and `.mlpackage`; no weight is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sdmobile.errors import UnsupportedError


@dataclass(frozen=True)
class Tensor:
    """A value of the graph.

    Args:
        name: unique within the graph.
        shape: dimensions in the file's own order; () for a scalar.
        dtype: lower-case element type, such as "float16".
        constant: whether the file holds its values.
        stored_bytes: bytes in the file if it is a constant (as compressed there), else 0.
        quantized: whether integers stand for numbers by a scale and a zero point.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    stored_bytes: int = 0
    quantized: bool = False

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Operation:
    """One operator of the file.

    Args:
        kind: lower-case name: "conv_2d"; a composite has its own, "odml.group_norm"; Core ML: "conv".
        name: path of the module of the source model, such as "down_blocks.0.resnets.0.conv1"; "" if unknown.
        inputs: names of tensors, an operator's optional ones left out.
        outputs: names of tensors.
        attributes: the operator's options by the format's names.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FileGraph:
    """The graph that a runtime gets from a file.

    Args:
        tensors: all tensors by name.
        operations: in the order in which they run.
        inputs: names of the graph's inputs.
        outputs: names of its outputs.
        file_bytes: size of the file, or of all files of a package.
    """

    format: Literal["tflite", "mlprogram"]
    tensors: Mapping[str, Tensor]
    operations: tuple[Operation, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    file_bytes: int


def one_row(graph: FileGraph, rows: int = 2) -> FileGraph:
    """Returns a graph with one of several rows in everything that is computed from an input of such a batch.

    It is for counting, not for running: shapes that operators hold as constants stay as they are.

    Args:
        graph: of a component exported for guidance in one call.
        rows: of the guidance.

    Raises:
        UnsupportedError: no input has so many rows, or a multiple, or an operation mixes them.
    """

    def whole(tensor: Tensor) -> bool:
        return bool(tensor.shape) and tensor.shape[0] % rows == 0

    batched = {name for name in graph.inputs if whole(graph.tensors[name])}
    if not batched:
        raise UnsupportedError(f"a graph to divide must have an input of a batch of {rows}", "none")
    for operation in graph.operations:
        if not batched.intersection(operation.inputs):
            continue
        for name in operation.outputs:
            if not whole(graph.tensors[name]):
                shape = list(graph.tensors[name].shape)
                raise UnsupportedError(
                    "the batch must be the first axis", f"{operation.kind} {operation.name} to {shape}"
                )
            batched.add(name)
    divided = {name: _divided(graph.tensors[name], rows) for name in batched}
    return replace(graph, tensors={**graph.tensors, **divided})


def _divided(tensor: Tensor, rows: int) -> Tensor:
    return replace(tensor, shape=(tensor.shape[0] // rows, *tensor.shape[1:]))
