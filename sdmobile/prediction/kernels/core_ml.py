"""What Core ML is taken to run for an ML Program, on the Neural Engine or on the GPU.

No rule by which Core ML fuses operations or selects kernels is published, so this is a coarse model and no description
of Core ML: what follows a convolution, a product or a norm element by element is part of its kernel; a reshape that
keeps the innermost axis costs nothing; every other operation is one kernel that reads its inputs and writes its
outputs. Convolutions are counted directly: whether the compiler of the Neural Engine uses Winograd's method is unknown.

On the Neural Engine the last axis of a tensor in memory is padded to 64 bytes (Apple, Deploying Transformers on the
Apple Neural Engine, 2022). Compressed weights are read as stored, decompressed on the way (apple/ml-stable-diffusion
README: from iOS 17 on; an assumption of low reliability for other schemes than palettes).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from sdmobile.device_profiles.runtime_rules.core_ml import objections
from sdmobile.device_profiles.runtime_rules.kernel import Category, Kernel
from sdmobile.formats.graph.graph import FileGraph, Operation, Tensor

Engine = Literal["neural-engine", "gpu"]
ROW_BYTES = 64
_HOSTS = frozenset({"conv", "depthwise", "matmul", "attention", "norm", "elementwise"})
_PASSES = {"norm": 2}
"""How often a kernel reads its input: a norm once for the moments and once to apply them."""
VIEWS = frozenset({"squeeze", "expand_dims"})
_KINDS: Mapping[Category, str] = {
    "matmul": "linear matmul einsum",
    "attention": "scaled_dot_product_attention",
    "softmax": "softmax",
    "norm": "layer_norm instance_norm l2_norm local_response_norm",
    "copy": "reshape transpose concat split slice_by_index slice_by_size stack pad tile flatten2d reverse "
    "pixel_shuffle pixel_unshuffle space_to_depth depth_to_space slice_update",
    "reduce": "reduce_mean reduce_sum reduce_max reduce_min reduce_argmax reduce_argmin reduce_l2_norm "
    "reduce_sum_square reduce_log_sum_exp reduce_prod avg_pool max_pool l2_pool cumsum topk",
    "resize": "upsample_nearest_neighbor upsample_bilinear resize_bilinear resize_nearest_neighbor resize crop_resize",
    "gather": "gather gather_nd gather_along_axis scatter scatter_nd one_hot",
}
_CATEGORY: dict[str, Category] = {kind: category for category, kinds in _KINDS.items() for kind in kinds.split()}


@dataclass
class _Node:
    category: Category
    name: str
    operations: list[int]
    read: int
    write: int
    macs: int = 0
    weights: int = 0
    notes: list[str] = field(default_factory=list)

    def kernel(self) -> Kernel:
        return Kernel(
            category=self.category,
            name=self.name,
            operations=tuple(self.operations),
            macs=self.macs,
            operator_macs=self.macs,
            read_bytes=self.read,
            write_bytes=self.write,
            weight_bytes=self.weights,
            note="; ".join(dict.fromkeys(self.notes)),
        )


class _Draft:
    """Nodes while the operations are walked through in order."""

    def __init__(self, graph: FileGraph, engine: Engine, element_bytes: int) -> None:
        self.graph = graph
        self.engine = engine
        self.element_bytes = element_bytes
        self.nodes: list[_Node] = []
        self.maker: dict[str, int] = {}  # number of the node that writes a value
        self.uses = Counter(name for operation in graph.operations for name in operation.inputs)
        self.uses.update(graph.outputs)
        self.weights_seen: set[str] = set()

    def bytes(self, name: str) -> int:
        """Size of a value in memory."""
        tensor = self.graph.tensors[name]
        size = self.element_bytes if tensor.dtype.startswith("float") else 4
        if self.engine == "gpu" or not tensor.shape:
            return tensor.elements * size
        row = -(-tensor.shape[-1] * size // ROW_BYTES) * ROW_BYTES
        return math.prod(tensor.shape[:-1]) * row

    def computed(self, operation: Operation) -> list[str]:
        """Inputs that are no constants."""
        return [name for name in operation.inputs if not self.graph.tensors[name].constant]

    def weight_bytes(self, operation: Operation) -> int:
        """Bytes of the constants that an operation reads."""
        constants = (self.graph.tensors[name] for name in operation.inputs)
        return sum(self._stored(tensor) for tensor in constants if tensor.constant)

    def _stored(self, tensor: Tensor) -> int:
        dense = tensor.elements * self.element_bytes
        return min(tensor.stored_bytes, dense) if tensor.stored_bytes else dense

    def view(self, operation: Operation) -> None:
        """Gives the result of a view the maker of its source."""
        source = operation.inputs[0]
        if source in self.maker:
            self.maker[operation.outputs[0]] = self.maker[source]
        self.uses[operation.outputs[0]] += self.uses[source] - 1  # a source with other users is no view's own

    def host(self, operation: Operation) -> tuple[int, str] | None:
        """The node that an elementwise operation becomes part of, and the value that need not be written.

        The node must be the last of those that make the inputs, and nothing else may use its value.
        """
        inputs = self.computed(operation)
        made = [(self.maker.get(name, -1), name) for name in inputs]
        if not made:
            return None
        number, name = max(made)
        same_size = self.graph.tensors[name].elements == self.graph.tensors[operation.outputs[0]].elements
        alone = self.uses[name] == inputs.count(name) and sum(other == number for other, _ in made) == inputs.count(
            name
        )
        if number < 0 or not same_size or not alone or self.nodes[number].category not in _HOSTS:
            return None
        return number, name

    def add(self, index: int, operation: Operation, kind: Category) -> None:
        """Adds a node of its own."""
        inputs = dict.fromkeys(self.computed(operation))
        read = sum(self.bytes(name) for name in inputs) * _PASSES.get(kind, 1)
        write = sum(self.bytes(name) for name in operation.outputs)
        if kind == "gather" or operation.kind.startswith("slice_by"):
            read = min(read, write)
        node = _Node(kind, operation.name, [index], read, write, macs(self.graph, operation))
        node.weights = min(self.weight_bytes(operation), write) if kind == "gather" else self.weight_bytes(operation)
        self.maker.update(dict.fromkeys(operation.outputs, len(self.nodes)))
        self.nodes.append(node)

    def join(self, index: int, operation: Operation, number: int, value: str) -> None:
        """Makes an elementwise operation the last part of a node."""
        node = self.nodes[number]
        node.operations.append(index)
        node.read += sum(self.bytes(name) for name in dict.fromkeys(self.computed(operation)) if name != value)
        node.write = sum(self.bytes(name) for name in operation.outputs)
        node.weights += self.weight_bytes(operation)
        self.maker.update(dict.fromkeys(operation.outputs, number))


def core_ml_kernels(graph: FileGraph, engine: Engine = "neural-engine", element_bytes: int = 2) -> tuple[Kernel, ...]:
    """Returns what Core ML is taken to run for a graph; see the module's docstring for how coarse that is.

    Args:
        graph: of an `.mlpackage`.
        engine: the Neural Engine or the GPU.
        element_bytes: size of a float in the run.

    Returns:
        Kernels in order; the note of one that holds an operation outside of what is attested for the Neural Engine
        says why. It is a prediction, and costs nothing in the model: what a change of units costs is not published.
    """
    draft = _Draft(graph, engine, element_bytes)
    off = off_neural_engine(graph) if engine == "neural-engine" else {}
    for index, operation in enumerate(graph.operations):
        if _is_view(graph, operation):
            draft.view(operation)
            continue
        kind = category(graph, operation)
        host = draft.host(operation) if kind == "elementwise" else None
        if host is None:
            draft.add(index, operation, kind)
        else:
            draft.join(index, operation, *host)
        if index in off:
            draft.nodes[draft.maker[operation.outputs[0]]].notes.append(
                f"predicted off the Neural Engine: {off[index]}"
            )
    return tuple(node.kernel() for node in draft.nodes)


def _is_view(graph: FileGraph, operation: Operation) -> bool:
    """Whether a reshape leaves the rows of a tensor as they are."""
    if operation.kind not in (*VIEWS, "reshape") or graph.tensors[operation.inputs[0]].constant:
        return False
    before = graph.tensors[operation.inputs[0]].shape
    after = graph.tensors[operation.outputs[0]].shape
    return before[-1:] == after[-1:]


def off_neural_engine(graph: FileGraph) -> dict[int, str]:
    """Returns the rules by which an operation is predicted to run elsewhere, by its index.

    Args:
        graph: of an `.mlpackage`.
    """
    rules: dict[int, str] = {}
    for index, operation in enumerate(graph.operations):
        results = [graph.tensors[name] for name in operation.outputs]
        broken = [o.rule for o in objections(operation.kind, operation.name, results, partial(_numbers, operation))]
        if broken:
            rules[index] = ", ".join(dict.fromkeys(broken))
    return rules


def _numbers(operation: Operation, parameter: str) -> Any:
    value = operation.attributes.get(parameter)
    return None if isinstance(value, str) else value


def category(graph: FileGraph, operation: Operation) -> Category:
    """Returns the category of kernels of an operation; what is not known moves or changes each element once."""
    if operation.kind in ("conv", "conv_transpose"):
        weight = graph.tensors[operation.inputs[1]].shape
        groups = int(operation.attributes.get("groups", 1))
        # A 1×1 convolution counts as any other: with those in "matmul", rows left out are predicted worse (17 % against
        # 13 % in the median), as one would expect where a convolution is the native form and a linear layer is not.
        return "depthwise" if groups > 1 and weight[1] == 1 else "conv"
    return _CATEGORY.get(operation.kind, "elementwise")


def macs(graph: FileGraph, operation: Operation) -> int:
    """Returns the multiply-accumulates of an operation as it is defined; 0 for what only moves or changes elements."""
    shapes = [graph.tensors[name].shape for name in operation.inputs]
    output = graph.tensors[operation.outputs[0]]
    if operation.kind == "conv":  # weights (outputs, inputs of a group, *kernel)
        return output.elements * math.prod(shapes[1][1:])
    if operation.kind == "conv_transpose":  # weights (inputs, outputs of a group, *kernel)
        return math.prod(shapes[0]) * math.prod(shapes[1][1:])
    if operation.kind == "linear":  # weights (outputs, inputs)
        return output.elements * shapes[1][-1]
    if operation.kind == "matmul":
        inner = shapes[0][-2] if operation.attributes.get("transpose_x") else shapes[0][-1]
        return output.elements * inner
    if operation.kind == "einsum":
        return _einsum(str(operation.attributes["equation"]), shapes)
    if operation.kind == "scaled_dot_product_attention":  # (..., queries, E), (..., keys, E), (..., keys, Ev)
        keys = shapes[1][-2]
        return math.prod(shapes[0]) * keys + output.elements * keys
    return 0


def _einsum(equation: str, shapes: list[tuple[int, ...]]) -> int:
    sizes: dict[str, int] = {}
    for letters, shape in zip(equation.split("->")[0].replace(" ", "").split(","), shapes, strict=True):
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)
    return math.prod(sizes.values())
