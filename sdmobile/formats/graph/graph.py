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


def half_batch(graph: FileGraph) -> FileGraph:
    """Returns a graph with half as many rows in everything that is computed from an input of an even batch.

    It is for counting, not for running: shapes that operators hold as constants stay as they are.

    Args:
        graph: of a component exported for guidance at batch 2.

    Raises:
        UnsupportedError: no input has an even batch, or an operation mixes images in a way that has no half.
    """
    batched = {name for name in graph.inputs if _even(graph.tensors[name])}
    if not batched:
        raise UnsupportedError("a graph to halve must have an input of an even batch", "none", "Export with batch 2")
    for operation in graph.operations:
        if not batched.intersection(operation.inputs):
            continue
        for name in operation.outputs:
            if not _even(graph.tensors[name]):
                shape = list(graph.tensors[name].shape)
                raise UnsupportedError(
                    "the batch must be the first axis", f"{operation.kind} {operation.name} to {shape}"
                )
            batched.add(name)
    tensors = {name: _half(tensor) if name in batched else tensor for name, tensor in graph.tensors.items()}
    return replace(graph, tensors=tensors)


def _even(tensor: Tensor) -> bool:
    return bool(tensor.shape) and tensor.shape[0] % 2 == 0


def _half(tensor: Tensor) -> Tensor:
    return replace(tensor, shape=(tensor.shape[0] // 2, *tensor.shape[1:]))
