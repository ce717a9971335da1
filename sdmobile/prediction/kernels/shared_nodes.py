"""The nodes of Google's GPU engines while a graph is lowered and fused, and the kernels that they become."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from sdmobile.device_profiles.runtime_rules.kernel import Category, Kernel
from sdmobile.formats.graph.graph import Tensor
from sdmobile.formats.tflite.gpu_bytes import Bhwc, bhwc, gpu_bytes


@dataclass
class Node:
    """One dispatch before and after fusion.

    Args:
        inputs: names of values; a linked operation's further inputs are appended.
        linkable: an elementwise operation whose first input has the shape of its output, so that it can become the last
            lines of the kernel that writes that input.
        reorder: moves elements without arithmetic and may merge with another such.
        passes: how often the inputs are read.
        reads: bytes read where that is not the whole of the inputs.
    """

    category: Category
    name: str
    operations: tuple[int, ...]
    inputs: list[str]
    outputs: list[str]
    macs: int = 0
    operator_macs: int = 0
    weight_bytes: int = 0
    launches: int = 1
    linkable: bool = False
    reorder: bool = False
    passes: int = 1
    reads: int | None = None
    linked: list[str] = field(default_factory=list)
    note: str = ""

    def absorb(self, other: Node) -> None:
        """Takes over the work of a node that follows."""
        self.operations += other.operations
        self.macs += other.macs
        self.operator_macs += other.operator_macs
        self.weight_bytes += other.weight_bytes
        self.outputs = other.outputs


class Draft:
    """Nodes in order of execution, and the sizes of the values between them.

    Args:
        element_bytes: size of a float in a run.
    """

    def __init__(self, element_bytes: int) -> None:
        self.element_bytes = element_bytes
        self.nodes: list[Node] = []
        self.inputs: tuple[str, ...] = ()
        self.outputs: tuple[str, ...] = ()
        self._shapes: dict[str, Bhwc] = {}
        self._bytes: dict[str, int] = {}
        self._same: dict[str, str] = {}

    def declare(self, tensor: Tensor) -> None:
        """Adds a value of the file."""
        self._shapes[tensor.name] = bhwc(tensor.shape)
        self._bytes[tensor.name] = gpu_bytes(
            tensor.shape, tensor.dtype, self.element_bytes, constant=tensor.constant, quantized=tensor.quantized
        )

    def fresh(self, shape: Bhwc) -> str:
        """Adds a value that the file does not have."""
        name = f"%{len(self._shapes)}"
        self._shapes[name], self._bytes[name] = shape, gpu_bytes(shape, "float32", self.element_bytes)
        return name

    def alias(self, name: str, source: str) -> None:
        """Makes a value another name of its source: an operation that does nothing."""
        self._same[name] = self.resolve(source)

    def resolve(self, name: str) -> str:
        """Returns the value that is really there."""
        return self._same.get(name, name)

    def shape(self, name: str) -> Bhwc:
        """Returns (batch, height, width, channels) by the given name, not by what it is an alias of."""
        return self._shapes[name]

    def bytes(self, name: str) -> int:
        """Returns the size of a value in the engine's memory."""
        return self._bytes[name]

    def add(self, node: Node) -> Node:
        """Appends a node; its inputs are resolved."""
        node.inputs = [self.resolve(name) for name in node.inputs]
        self.nodes.append(node)
        return node

    def kernels(self) -> tuple[Kernel, ...]:
        """Returns what the nodes launch, between the conversions of inputs and outputs, which nothing is linked to."""
        return (
            *(self._conversion(name, inwards=True) for name in self.inputs),
            *(self._kernel(node) for node in self.nodes),
            *(self._conversion(name, inwards=False) for name in self.outputs),
        )

    def _conversion(self, name: str, inwards: bool) -> Kernel:
        """Returns the kernel between the caller's four bytes per element and the engine's layout."""
        outside, inside = 4 * math.prod(self._shapes[name]), self.bytes(name)
        read, write = (outside, inside) if inwards else (inside, outside)
        return Kernel("copy", "", (), 0, 0, read, write, 0, note=f"{'to' if inwards else 'from'} the engine's layout")

    def _kernel(self, node: Node) -> Kernel:
        read = node.reads if node.reads is not None else node.passes * self._total(node.inputs)
        return Kernel(
            category=node.category,
            name=node.name,
            operations=tuple(sorted(set(node.operations))),
            macs=node.macs,
            operator_macs=node.operator_macs,
            read_bytes=read + self._total(node.linked),
            write_bytes=self._total(node.outputs),
            weight_bytes=node.weight_bytes,
            launches=node.launches,
            note=node.note,
        )

    def _total(self, names: Iterable[str]) -> int:
        return sum(self.bytes(name) for name in dict.fromkeys(names))
