"""The kernels of XNNPACK, which runs a `.tflite` file on the CPU.

XNNPACK computes in float32 here: weights stored in float16 are unpacked when the file is loaded. It has no Winograd's
method of its own. Convolutions are products of tiles whose left operand is gathered by pointers ("indirect GEMM",
Dukhan 2019, arXiv 1907.02129), so they write no patches. Between a unit's caches and its memory the model knows two
limits: tensors that the last-level cache does not hold, and pairs of tiles that the second-level cache does not hold;
they are then read again for every tile of the result.

The operators that XNNPACK gets from a `.tflite` file: composites in pieces, clamps and zero padding fused.

Composites run as their decompositions, the subgraphs that the exporters write (rewrites/composites). What XNNPACK fuses
(google/XNNPACK `src/subgraph.c`, xnn_subgraph_fusion) is little: a clamp into the operator before it, and zero padding
into the convolution after it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sdmobile.device_profiles.runtime_rules.kernel import Kernel
from sdmobile.device_profiles.runtime_rules.tflite_operators import (
    ATTENTION,
    CLAMPS,
    CONVOLUTIONS,
    GROUP_NORM,
    TABLES,
    kinds,
)
from sdmobile.formats.graph.graph import FileGraph, Operation, Tensor
from sdmobile.prediction.kernels.xnnpack_work import Work, work_of

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


LAST_LEVEL, SECOND_LEVEL = 32 * 2**20, 2**20
ELEMENT_BYTES = 4
_TABLES = kinds(TABLES)
_Step = tuple[tuple[int, ...], Operation, Work]


def xnnpack_kernels(
    graph: FileGraph, last_level: int = LAST_LEVEL, second_level: int = SECOND_LEVEL
) -> tuple[Kernel, ...]:
    """Returns what XNNPACK runs for a graph.

    The bytes of a kernel are those that pass the last-level cache, and the tiles that pass the second-level one.

    Args:
        graph: of a `.tflite` file.
        last_level: bytes of the cache before the memory.
        second_level: bytes of the cache of one core.
    """
    asked = steps_of(graph)
    same: dict[str, str] = {}  # results of reshapes, which move nothing
    steps: list[_Step] = []
    for origin, operation in asked.steps:
        work = work_of(operation, asked.tensors)
        if work is None:
            same.update({name: same.get(operation.inputs[0], operation.inputs[0]) for name in operation.outputs})
        else:
            steps.append((origin, operation, work))
    accesses = [_accesses(operation, asked.tensors, same) for _, operation, _ in steps]
    outside = missed(accesses, last_level)
    return tuple(
        _kernel(step, sizes, names, {same.get(name, name) for name in step[1].outputs}, asked.tensors, second_level)
        for step, sizes, names in zip(steps, accesses, outside, strict=True)
    )


def _accesses(operation: Operation, tensors: dict[str, Tensor], same: dict[str, str]) -> dict[str, int]:
    names = (same.get(name, name) for name in (*operation.inputs, *operation.outputs))
    rows = tensors[operation.outputs[0]].elements
    # A look-up reads no more of its table than it writes.
    table = operation.kind in _TABLES
    return {
        name: ELEMENT_BYTES * (min(rows, tensors[name].elements) if table else tensors[name].elements)
        for name in names
        if not tensors[name].dtype.startswith("int") or not tensors[name].constant or tensors[name].dtype == "int8"
    }


def _kernel(
    step: _Step,
    sizes: dict[str, int],
    outside: frozenset[str],
    results: set[str],
    tensors: dict[str, Tensor],
    second_level: int,
) -> Kernel:
    origin, operation, work = step
    read = sum(sizes[name] for name in outside if name not in results and not tensors[name].constant)
    again = work.panels if work.panel > second_level else 0
    return Kernel(
        category=work.category,
        name=operation.name,
        operations=origin,
        macs=work.macs,
        operator_macs=work.operator_macs,
        read_bytes=max(read, again),
        write_bytes=sum(sizes[name] for name in outside if name in results),
        weight_bytes=sum(sizes[name] for name in outside if name not in results and tensors[name].constant),
        note=work.note + (", tiles exceed the second-level cache" if again else ""),
    )


class Cache:
    """A cache of whole tensors.

    Args:
        capacity: bytes of the last-level cache.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held: OrderedDict[str, int] = OrderedDict()
        self._used = 0

    def touch(self, name: str, size: int) -> bool:
        """Reads or writes a tensor; returns whether it was there."""
        known = name in self._held
        if known:
            self._held.move_to_end(name)
        else:
            self._held[name] = size
            self._used += size
        while self._used > self._capacity:
            self._used -= self._held.popitem(last=False)[1]
        return known


def missed(accesses: Sequence[Mapping[str, int]], capacity: int) -> list[frozenset[str]]:
    """Returns which tensors each kernel moves from or to the main memory.

    Two inferences go through the cache and the second is counted, so that weights that fit stay.

    Args:
        accesses: per kernel, names and bytes of the tensors that it reads and writes.
        capacity: bytes of the last-level cache.
    """
    cache = Cache(capacity)
    moved: list[frozenset[str]] = []
    for _ in range(2):
        moved = [frozenset(n for n, size in sizes.items() if not cache.touch(n, size)) for sizes in accesses]
    return moved
