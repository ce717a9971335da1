"""The operators that XNNPACK gets from a `.tflite` file: composites in pieces, clamps and zero padding fused.

Composites run as their decompositions, the subgraphs that the exporters write (rewrites/composites). What XNNPACK fuses
(google/XNNPACK `src/subgraph.c`, xnn_subgraph_fusion) is little: a clamp into the operator before it, and zero padding
into the convolution after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdmobile.device_profiles.runtime_rules.tflite_operators import ATTENTION, CLAMPS, CONVOLUTIONS, GROUP_NORM, kinds
from sdmobile.formats.graph.graph import FileGraph, Operation, Tensor

Shape = tuple[int, ...]
_CLAMPS = kinds(CLAMPS)
_CONVOLUTIONS = kinds(CONVOLUTIONS)


@dataclass
class Steps:
    """Operators in order, each with the index of the file's operation that it does.

    Args:
        tensors: of the file, and of the pieces of composites.
        steps: pairs of indices of the file's operations and an operator.
    """

    tensors: dict[str, Tensor]
    steps: list[tuple[tuple[int, ...], Operation]] = field(default_factory=list)

    def shape(self, name: str) -> Shape:
        """Returns the shape of a tensor."""
        return self.tensors[name].shape

    def piece(self, index: int, whole: Operation, kind: str, inputs: list[str], shape: Shape, **options: Any) -> str:
        """Adds a piece of a composite and returns its result."""
        name = f"{whole.outputs[0]}:{len(self.steps)}"
        self.tensors[name] = Tensor(name, shape, "float32", False)
        self.steps.append(((index,), Operation(kind, whole.name, tuple(inputs), (name,), options)))
        return name

    def alias_last(self, result: str) -> None:
        """Lets the last operator write a tensor of the file."""
        origin, last = self.steps[-1]
        self.steps[-1] = (origin, Operation(last.kind, last.name, last.inputs, (result,), last.attributes))


def steps_of(graph: FileGraph) -> Steps:
    """Returns what XNNPACK is asked to run."""
    steps = Steps(dict(graph.tensors))
    for index, operation in enumerate(graph.operations):
        if operation.kind == ATTENTION:
            _attention(steps, index, operation)
        elif operation.kind == GROUP_NORM:
            _group_norm(steps, index, operation)
        else:
            steps.steps.append(((index,), operation))
    steps.steps = _fused(steps.steps, graph)
    return steps


def _attention(steps: Steps, index: int, whole: Operation) -> None:
    """softmax(q kᵀ / √d + mask) v for (batch, length, heads, channels): heads are brought outside first."""
    query, key, value, *mask = whole.inputs
    batch, length, heads, channels = steps.shape(query)
    keys = steps.shape(key)[1]
    order = {"constant_inputs": {"1": [0, 2, 1, 3]}}

    def add(kind: str, inputs: list[str], shape: Shape, **options: Any) -> str:
        return steps.piece(index, whole, kind, inputs, shape, **options)

    def outside(name: str, rows: int) -> str:
        return add("transpose", [name], (batch, heads, rows, channels), **order)

    scaled = add("mul", [query], steps.shape(query))
    scores = add("batch_matmul", [outside(scaled, length), outside(key, keys)], (batch, heads, length, keys), adjY=True)
    if mask:
        scores = add("add", [scores, mask[0]], (batch, heads, length, keys))
    weights = add("softmax", [scores], (batch, heads, length, keys))
    result = add("batch_matmul", [weights, outside(value, keys)], (batch, heads, length, channels), adjY=False)
    add("transpose", [result], steps.shape(whole.outputs[0]), **order)
    steps.alias_last(whole.outputs[0])


def _group_norm(steps: Steps, index: int, whole: Operation) -> None:
    """One group is a LayerNorm in its plain form; several are scaled by their largest deviation before the squares."""
    image, *affine = whole.inputs
    whole_shape = steps.shape(image)
    groups = int(whole.attributes.get("num_groups", 1))
    if groups == 1:
        shape, moment, axes = whole_shape, (*whole_shape[:-1], 1), [len(whole_shape) - 1]
        channels: Shape = (whole_shape[-1],)
    else:
        shape = (whole_shape[0], max(1, _product(whole_shape[1:-1])), groups, whole_shape[-1] // groups)
        moment, axes, channels = (whole_shape[0], 1, groups, 1), [1, 3], (1, 1, groups, shape[3])

    def add(kind: str, inputs: list[str], to: Shape, **options: Any) -> str:
        return steps.piece(index, whole, kind, inputs, to, **options)

    def constant(name: str) -> str:
        return add("reshape", [name], channels)

    reduced = {"constant_inputs": {"1": axes}}
    values = add("reshape", [image], shape)
    centred = add("sub", [values, add("mean", [values], moment, **reduced)], shape)
    if groups > 1:
        largest = add("reduce_max", [add("abs", [centred], shape)], moment, **reduced)
        centred = add("mul", [centred, largest], shape)
    power = add("mean", [add("mul", [centred, centred], shape)], moment, **reduced)
    inverse = add("rsqrt", [power], moment)
    if groups > 1:
        factor = add("mul", [inverse, constant(affine[0])], channels) if affine else inverse
        result = add("mul", [centred, factor], shape)
    else:
        weighted = add("mul", [centred, affine[0]], shape) if affine else centred
        result = add("mul", [weighted, inverse], shape)
    result = add("add", [result, constant(affine[1])], shape) if len(affine) > 1 else result
    add("reshape", [result], whole_shape)
    steps.alias_last(whole.outputs[0])


def _product(shape: Shape) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _fused(steps: list[tuple[tuple[int, ...], Operation]], graph: FileGraph) -> list[tuple[tuple[int, ...], Operation]]:
    """Merges a clamp with its producer and zero padding with its convolution where nobody else reads the value."""
    uses = Counter(name for _, operation in steps for name in operation.inputs)
    uses.update(graph.outputs)
    made: dict[str, int] = {}
    kept: list[tuple[tuple[int, ...], Operation]] = []
    for origin, operation in steps:
        source = operation.inputs[0] if operation.inputs else ""
        before = made.get(source)
        alone = before is not None and uses[source] == 1
        if before is not None and alone and operation.kind in _CLAMPS:
            first, producer = kept[before]
            kept[before] = (first + origin, _with(producer, outputs=operation.outputs))
            made[operation.outputs[0]] = before
            continue
        if before is not None and alone and operation.kind in _CONVOLUTIONS and kept[before][1].kind == "pad":
            first, padding = kept[before]
            kept[before] = (first + origin, _with(operation, inputs=(padding.inputs[0], *operation.inputs[1:])))
            made[operation.outputs[0]] = before
            continue
        made.update(dict.fromkeys(operation.outputs, len(kept)))
        kept.append((origin, operation))
    return kept


def _with(operation: Operation, **fields: Any) -> Operation:
    known: Mapping[str, Any] = {**vars(operation), **fields}
    return Operation(**known)
