"""The nodes of Google's GPU engines while a graph is lowered and fused, and the kernels that they become.

Fusion has the three passes of google-ai-edge/ml-drift@393e0e9 `ml_drift/common/merge_nodes.cc` (MergeReorderNodes,
MergeElementwiseNodes, LinkNodes), of which google-ai-edge/LiteRT@f674577 `tflite/delegates/gpu/common/gpu_model.cc` has
the last two. A convolution, for example, takes over the activation and the residual sum that follow it; so does a norm
the SiLU behind it, sigmoid and product being one elementwise node by then.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
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
    threads: int = 0
    fetches: int = 0

    def absorb(self, other: Node) -> None:
        """Takes over the work of a node that follows."""
        self.operations += other.operations
        self.macs += other.macs
        self.operator_macs += other.operator_macs
        self.weight_bytes += other.weight_bytes
        self.fetches += other.fetches
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
            fetches=node.fetches,
            threads=node.threads,
            note=node.note,
        )

    def _total(self, names: Iterable[str]) -> int:
        return sum(self.bytes(name) for name in dict.fromkeys(names))


_Uses = dict[str, list[tuple[int, Node]]]


def merge_reorders(draft: Draft) -> None:
    """Makes a reshape or transpose whose result only another one reads part of that one."""
    uses = _uses(draft.nodes)
    gone: set[int] = set()
    for node in draft.nodes:
        following = uses[node.outputs[0]]
        if not node.reorder or len(following) != 1 or node.outputs[0] in draft.outputs:
            continue
        _, second = following[0]
        if second.reorder and len(second.inputs) == 1:
            second.inputs = node.inputs
            second.operations = node.operations + second.operations
            uses[node.inputs[0]] = [(0, second) if user is node else (k, user) for k, user in uses[node.inputs[0]]]
            gone.add(id(node))
    draft.nodes = [node for node in draft.nodes if id(node) not in gone]


def merge_elementwise(draft: Draft) -> None:
    """Merges elementwise nodes with each other: chains of one input, and pairs whose inputs go back to one value."""
    producers = {name: node for node in draft.nodes for name in node.outputs[:1]}
    counts = Counter({name: len(users) for name, users in _uses(draft.nodes).items()})
    counts.update(draft.outputs)  # a result of the graph is read outside
    gone: set[int] = set()
    for root in draft.nodes:
        if not root.linkable or len(root.inputs) not in (1, 2):
            continue
        before = [producers.get(name) for name in root.inputs]
        merged = _chain(root, before, counts) or _pair(root, before, counts, producers)
        gone.update(id(node) for node in merged)
    draft.nodes = [node for node in draft.nodes if id(node) not in gone]


def _chain(root: Node, before: list[Node | None], counts: Counter[str]) -> list[Node]:
    """Merges root with the one elementwise node in front of it."""
    first = before[0]
    if len(root.inputs) != 1 or not _simple(first) or counts[root.inputs[0]] != 1:
        return []
    assert first is not None
    _prepend(root, [first], first.inputs[0])
    return [first]


def _pair(root: Node, before: list[Node | None], counts: Counter[str], producers: dict[str, Node]) -> list[Node]:
    """Merges a node of two inputs with what is in front of one or both, if both are functions of one value."""
    if len(root.inputs) != 2 or None in before:
        return []
    first, second = before
    assert first is not None
    assert second is not None
    if _simple(first) and not second.linkable:
        inner, source, own = [first], root.inputs[1], [root.inputs[0]]
    elif _simple(second) and not first.linkable:
        inner, source, own = [second], root.inputs[0], [root.inputs[1]]
    elif _simple(first) and _simple(second) and first is not second:
        inner, source, own = [first, second], first.inputs[0], root.inputs
    else:
        return []
    if any(node.inputs[0] != source for node in inner) or source not in producers:
        return []
    if any(counts[name] != 1 for name in own):
        return []
    _prepend(root, inner, source)
    counts[source] -= 1
    return inner


def _simple(node: Node | None) -> bool:
    return node is not None and node.linkable and len(node.inputs) == 1 and len(node.outputs) == 1


def _prepend(root: Node, inner: list[Node], source: str) -> None:
    for node in inner:
        root.operations = node.operations + root.operations
        root.weight_bytes += node.weight_bytes
    root.inputs = [source]


def link(draft: Draft) -> None:
    """Makes an elementwise node the last lines of the kernel that writes its first input.

    That input must be read by nothing else, and the other inputs must exist when the kernel runs.
    """
    uses = _uses(draft.nodes)
    ready = set(draft.inputs)
    gone: set[int] = set()
    for node in draft.nodes:
        if id(node) in gone:
            continue
        ready.update(node.outputs)
        while (following := _linked(node, uses, ready, draft)) is not None:
            node.linked += following.inputs[1:] + following.linked
            node.absorb(following)
            gone.add(id(following))
            ready.update(node.outputs)
    draft.nodes = [node for node in draft.nodes if id(node) not in gone]


def _linked(node: Node, uses: _Uses, ready: set[str], draft: Draft) -> Node | None:
    """Returns the node that can be linked to a node, None if there is none."""
    if len(node.outputs) != 1 or node.outputs[0] in draft.outputs:
        return None
    following = uses[node.outputs[0]]
    if len(following) != 1 or following[0][0] != 0:
        return None
    other = following[0][1]
    return other if other.linkable and ready.issuperset(other.inputs) else None


def _uses(nodes: list[Node]) -> _Uses:
    """Returns who reads a value, and as which input."""
    uses: _Uses = defaultdict(list)
    for node in nodes:
        for position, name in enumerate(node.inputs):
            uses[name].append((position, node))
    return uses
