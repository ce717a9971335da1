"""A `.tflite` file as nodes and tensors; weights stay on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sdmobile.formats.tflite.gpu_bytes import bhwc

Shape = tuple[int, ...]
QuantizationKind = Literal["affine", "blockwise", "custom"]


@dataclass(frozen=True)
class Quantization:
    """How integers stand for numbers.

    Args:
        kind: "affine" where scales are stored with the tensor, "blockwise" where other tensors hold them.
        scales: number of scales that are stored with the tensor; one means per tensor.
        axis: the axis of several scales.
        values: the scales themselves, float32 [scales].
        holder: index of the tensor that holds the scales of blocks.
        zeros: the integers that stand for 0, as many as scales.
    """

    kind: QuantizationKind
    scales: int
    axis: int
    values: np.ndarray | None = field(default=None, compare=False)
    holder: int | None = None
    zeros: np.ndarray | None = field(default=None, compare=False)


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of a graph.

    Args:
        index: position in the subgraph.
        name: as stored; converters put the source module here.
        shape: dimensions; () for a scalar.
        dtype: upper-case name of the element type, for example "FLOAT32".
        constant: whether the file holds its values.
        quantization: how integers stand for numbers, None for plain values.
        sparse: whether the values are stored sparsely.
        data: bytes of a constant; a view of the file.
        buffer: number of the buffer in the file; tensors may share one.
        start: where the bytes of a constant begin in the file.
    """

    index: int
    name: str
    shape: Shape
    dtype: str
    constant: bool
    quantization: Quantization | None = None
    sparse: bool = False
    data: memoryview | None = None
    buffer: int = 0
    start: int = 0

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bhwc(self) -> tuple[int, int, int, int]:
        """The four dimensions (batch, height, width, channels) that GPU runtimes give to lower ranks."""
        return bhwc(self.shape)

    def values(self) -> np.ndarray | None:
        """Returns the values of a small constant, None where the file does not hold them within reach."""
        if self.data is None:
            return None
        flat = np.frombuffer(self.data, np.dtype(self.dtype.lower()))
        return flat.reshape(self.shape) if flat.size == self.elements else None

    def __str__(self) -> str:
        constant = " constant" if self.constant else ""
        return f"{self.dtype.lower()}{list(self.shape)}{constant}"


@dataclass(frozen=True)
class Composite:
    """A composite operator: its name, its attributes and the index of the subgraph that computes the same."""

    name: str
    attributes: dict[str, Any]
    decomposition: int | None = None


@dataclass(frozen=True, eq=False)
class Node:
    """One operator of a graph.

    Args:
        index: position in the subgraph.
        op: builtin name, for example "CONV_2D".
        version: version of the operator.
        inputs: tensors; None for an optional one that is left out.
        outputs: tensors.
        options: fields of the operator's options by the schema's names.
        custom: name of a custom operator.
        composite: what a STABLEHLO_COMPOSITE stands for.
    """

    index: int
    op: str
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: dict[str, Any]
    custom: str | None = None
    composite: Composite | None = None

    @property
    def runtime(self) -> tuple[Tensor, ...]:
        """Inputs that are computed."""
        return tuple(tensor for tensor in self.inputs if tensor is not None and not tensor.constant)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """Inputs that are stored."""
        return tuple(tensor for tensor in self.inputs if tensor is not None and tensor.constant)

    def input(self, position: int) -> Tensor | None:
        """Returns an input, None where there is none."""
        return self.inputs[position] if position < len(self.inputs) else None

    def activation(self) -> str:
        """Returns the name of the fused activation, "NONE" without one."""
        return ACTIVATIONS.get(self.options.get("fusedActivationFunction", 0), "unknown")


COMPOSITE = "STABLEHLO_COMPOSITE"
"""The operator that stands for one under a name of its own."""
ACTIVATIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH", 5: "SIGN_BIT"}


@dataclass(frozen=True)
class Graph:
    """A subgraph of a file.

    Args:
        path: the file.
        nodes: operators in the order in which they run.
        tensors: all tensors.
        inputs: indices of the inputs.
        outputs: indices of the outputs.
        file_bytes: size of the file.
    """

    path: Path
    nodes: tuple[Node, ...]
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    file_bytes: int


@dataclass(frozen=True)
class Signature:
    """How an app calls a file.

    Args:
        key: name of the signature.
        graph: index of the subgraph that it runs.
        inputs: name of each input to the index of its tensor in that subgraph.
        outputs: the same of the outputs.
    """

    key: str
    graph: int
    inputs: dict[str, int]
    outputs: dict[str, int]


@dataclass(frozen=True)
class Model:
    """A whole file: subgraphs, the main one first, signatures, and whether weights lie behind the flatbuffer."""

    graphs: tuple[Graph, ...]
    signatures: tuple[Signature, ...]
    weights_behind: bool = False
