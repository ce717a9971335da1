"""A saved model file as operations and tensors, the same for `.tflite` and `.mlpackage`; no weight is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


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
