"""Neutral graphs of a few operations, written by hand."""

from __future__ import annotations

from typing import Any

from sdmobile.device_profiles.graph import FileGraph, Operation, Tensor

Shape = tuple[int, ...]


class Small:
    """A graph under construction; methods return names of tensors."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._operations: list[Operation] = []
        self._inputs: list[str] = []

    def input(self, *shape: int) -> str:
        """Adds an input."""
        name = self._tensor(shape, "float32", False)
        self._inputs.append(name)
        return name

    def weights(self, *shape: int, dtype: str = "float16") -> str:
        """Adds a constant."""
        return self._tensor(shape, dtype, True)

    def op(self, kind: str, inputs: list[str], shape: Shape, name: str = "", **attributes: Any) -> str:
        """Adds an operation of one result."""
        result = self._tensor(shape, "float32", False)
        self._operations.append(Operation(kind, name, tuple(inputs), (result,), attributes))
        return result

    def conv(self, image: str, channels: int, kernel: int = 3, stride: int = 1) -> str:
        """Adds a convolution with a bias that keeps height and width, or halves them."""
        batch, height, width, given = self._tensors[image].shape
        inputs = [image, self.weights(channels, kernel, kernel, given), self.weights(channels)]
        shape = (batch, -(-height // stride), -(-width // stride), channels)
        return self.op("conv_2d", inputs, shape, strideH=stride, strideW=stride)

    def graph(self, *outputs: str) -> FileGraph:
        """Returns the graph with these outputs."""
        return FileGraph("tflite", self._tensors, tuple(self._operations), tuple(self._inputs), outputs, 0)

    def _tensor(self, shape: Shape, dtype: str, constant: bool) -> str:
        name = f"t{len(self._tensors)}"
        self._tensors[name] = Tensor(name, tuple(shape), dtype, constant, 0)
        return name
