"""How much memory the intermediate tensors of a graph need: lifetimes, lower bound and a plan of offsets.

The plan is greedy by size for offsets (Pisarchyk and Lee 2020, arXiv 2001.03288), the strategy of TFLite's arena and
of Google's GPU engines: tensors from the largest to the smallest, each into the smallest gap that fits between the
tensors already placed that are alive at the same time. Core ML's own planner is not published; this one stands for it.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sdmobile.formats.graph import FileGraph, Operation, Tensor
from sdmobile.formats.tflite.gpu_bytes import gpu_bytes
from sdmobile.prediction.kernels import Kernel

VIEWS = frozenset({"reshape", "squeeze", "expand_dims"})
"""Operations that may leave the data where they are."""

_BYTES = {"float64": 8, "int64": 8, "uint64": 8, "int16": 2, "uint16": 2}
_ONE_BYTE = ("bool", "int8", "uint8", "int4", "uint4", "int2", "uint6", "uint3", "uint2", "uint1")


@dataclass(frozen=True)
class Storage:
    """How a runtime keeps intermediate tensors.

    Args:
        float_bytes: of one floating-point number.
        gpu: whether it is one of Google's GPU engines, which hold tensors in slices of four channels.
        views: operations whose result shares the memory of their first input.
        alignment: of every tensor, in bytes.
        inputs_stay: whether inputs keep their memory until the end, as in TFLite's interpreter.
    """

    float_bytes: int = 2
    gpu: bool = False
    views: frozenset[str] = VIEWS
    alignment: int = 64
    inputs_stay: bool = True

    def bytes_of(self, tensor: Tensor) -> int:
        """Returns the bytes of a tensor at run time, without alignment."""
        if self.gpu:
            return gpu_bytes(
                tensor.shape, tensor.dtype, self.float_bytes, constant=tensor.constant, quantized=tensor.quantized
            )
        if tensor.dtype.startswith(("float", "bfloat")):
            return tensor.elements * self.float_bytes
        return tensor.elements * (1 if tensor.dtype in _ONE_BYTE else _BYTES.get(tensor.dtype, 4))


CORE_ML = Storage()
ML_DRIFT = Storage(gpu=True, views=frozenset())
XNNPACK = Storage(float_bytes=4)


ARENA_RANGE = (0.92, 1.0)
"""Published arenas over planned ones: the range of three (Stable Diffusion 1.4 in ML Drift, arXiv 2505.00232, figure 3:
2, 65 and 320 MB; planned without Winograd's method, which the engine's own Stable Diffusion forbids, 2, 70 and 336 MB).
Three are too few for an interval with a coverage; of other runtimes none is published."""


@dataclass(frozen=True)
class Usage:
    """A buffer and the steps during which it must exist, both included.

    Args:
        name: of the tensor that owns the buffer.
        size: in bytes.
        first: the step that writes it.
        last: the last step that reads it.
    """

    name: str
    size: int
    first: int
    last: int

    def meets(self, other: Usage) -> bool:
        """Returns whether both exist at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class MemoryPlan:
    """Where each intermediate tensor lies.

    Args:
        usages: the buffers.
        offsets: place of each buffer by its name, in bytes.
        naive: bytes if every tensor had memory of its own.
        lower_bound: most bytes alive at one step; no plan needs less.
        arena: bytes of the plan.
        peak_step: the step of the lower bound; -1 without any buffer.
    """

    usages: tuple[Usage, ...]
    offsets: Mapping[str, int]
    naive: int
    lower_bound: int
    arena: int
    peak_step: int

    def alive(self, step: int) -> tuple[Usage, ...]:
        """Returns what is alive at a step, the largest first."""
        live = (usage for usage in self.usages if usage.first <= step <= usage.last)
        return tuple(sorted(live, key=lambda usage: -usage.size))


def usages(graph: FileGraph, storage: Storage, kernels: Sequence[Kernel] | None = None) -> tuple[Usage, ...]:
    """Returns the lifetime of every intermediate tensor that reaches memory.

    Args:
        graph: of the file.
        storage: how the runtime keeps tensors.
        kernels: what the runtime launches, in order; a tensor that is made and used within one kernel takes no memory,
            and what the kernels of one operation hand to each other does. Without them every operation is a step.
    """
    step_of = _steps(graph, kernels)
    read_at = _first_reads(kernels or ())
    views = _shared(graph, storage.views)
    last_step = max(step_of, default=0)
    first: dict[str, int] = dict.fromkeys(graph.inputs, 0)
    last: dict[str, int] = dict.fromkeys(graph.inputs, last_step if storage.inputs_stay else 0)
    size: dict[str, int] = {name: storage.bytes_of(graph.tensors[name]) for name in graph.inputs}
    reaches_memory = set(graph.inputs) | {views.get(name, name) for name in graph.outputs}
    for index, operation in enumerate(graph.operations):
        step = step_of[index]
        for name in operation.outputs:
            owner = views.get(name, name)
            first.setdefault(owner, step)
            last[owner] = max(last.get(owner, step), step)
            size[owner] = max(size.get(owner, 0), storage.bytes_of(graph.tensors[name]))
        for name in operation.inputs:
            owner = views.get(name, name)
            if owner in first:
                last[owner] = max(last[owner], read_at.get(index, step))
                if first[owner] != step:
                    reaches_memory.add(owner)
    for name in graph.outputs:
        if views.get(name, name) in last:
            last[views.get(name, name)] = last_step
    kept = (name for name in first if kernels is None or name in reaches_memory)
    kept_usages = tuple(Usage(name, size[name], first[name], last[name]) for name in kept if size[name])
    return (*kept_usages, *_internal(kernels or ()))


def plan(buffers: Iterable[Usage], alignment: int = 1) -> MemoryPlan:
    """Places buffers greedily by size.

    Args:
        buffers: lifetimes; their names must differ.
        alignment: of every offset, in bytes.

    Returns:
        The plan; arena ≥ lower_bound, and with alignment 1 arena ≤ naive.
    """
    chosen = tuple(buffers)
    offsets: dict[str, int] = {}
    placed: list[tuple[int, int, Usage]] = []  # by offset; the number keeps ties in the order of placing
    for number, usage in enumerate(sorted(chosen, key=lambda usage: -usage.size)):
        offsets[usage.name] = _best_gap(usage, placed, alignment)
        insort(placed, (offsets[usage.name], number, usage), key=lambda item: item[:2])
    step, bound = lower_bound(chosen)
    return MemoryPlan(
        usages=chosen,
        offsets=offsets,
        naive=sum(usage.size for usage in chosen),
        lower_bound=bound,
        arena=max((offsets[usage.name] + usage.size for usage in chosen), default=0),
        peak_step=step,
    )


def plan_graph(graph: FileGraph, storage: Storage, kernels: Sequence[Kernel] | None = None) -> MemoryPlan:
    """Returns the plan of a graph's intermediate tensors; arguments as of `usages`."""
    return plan(usages(graph, storage, kernels), storage.alignment)


def lower_bound(buffers: Iterable[Usage]) -> tuple[int, int]:
    """Returns the step with the most bytes alive, and the bytes; (-1, 0) without any buffer."""
    change: dict[int, int] = {}
    for usage in buffers:
        change[usage.first] = change.get(usage.first, 0) + usage.size
        change[usage.last + 1] = change.get(usage.last + 1, 0) - usage.size
    alive, best = 0, (-1, 0)
    for step in sorted(change):
        alive += change[step]
        if alive > best[1]:
            best = (step, alive)
    return best


def _best_gap(usage: Usage, placed: Sequence[tuple[int, int, Usage]], alignment: int) -> int:
    """Returns the offset of the smallest gap that holds a buffer, or the end of what is alive with it."""
    best_offset, best_size, end = None, math.inf, 0
    first, last = usage.first, usage.last
    for offset, _, other in placed:
        if other.last < first or other.first > last:
            continue
        gap = offset - end
        if usage.size <= gap < best_size:
            best_offset, best_size = end, gap
        end = max(end, -(-(offset + other.size) // alignment) * alignment)
    return end if best_offset is None else best_offset


def _steps(graph: FileGraph, kernels: Sequence[Kernel] | None) -> list[int]:
    """The step of each operation: its kernel, or for one without a kernel that of the operation before it."""
    if kernels is None:
        return list(range(len(graph.operations)))
    step_of: dict[int, int] = {}
    for step, kernel in enumerate(kernels):
        for index in kernel.operations:
            step_of[index] = max(step_of.get(index, step), step)
    steps, current = [], 0
    for index in range(len(graph.operations)):
        current = max(current, step_of[index]) if index in step_of else current
        steps.append(step_of.get(index, current))
    return steps


def _groups(kernels: Sequence[Kernel]) -> dict[int, list[int]]:
    """The steps of each operation's kernels; a kernel of several belongs to the first."""
    groups: dict[int, list[int]] = {}
    for step, kernel in enumerate(kernels):
        for index in kernel.operations[:1]:
            groups.setdefault(index, []).append(step)
    return groups


def _first_reads(kernels: Sequence[Kernel]) -> dict[int, int]:
    """When an operation has read its inputs, where that is before its last kernel: Winograd's first one cuts tiles."""
    return {index: steps[0] for index, steps in _groups(kernels).items() if _winograd(kernels, steps)}


def _winograd(kernels: Sequence[Kernel], steps: Sequence[int]) -> bool:
    return len(steps) > 1 and all(kernels[step].category == "winograd" for step in steps)


def _internal(kernels: Sequence[Kernel]) -> Iterator[Usage]:
    """What the kernels of one operation hand to each other, such as Winograd's tiles or attention scores.

    The kernel that follows reads Winograd's tiles and products. Anything else is kept for one more kernel: scores are
    read by a reduction and by a product.
    """
    for steps in _groups(kernels).values():
        further = 1 if _winograd(kernels, steps) else 2
        for place, step in enumerate(steps[:-1]):
            last = steps[min(place + further, len(steps) - 1)]
            yield Usage(f"kernel {step}", kernels[step].write_bytes, step, last)


def _shared(graph: FileGraph, kinds: frozenset[str]) -> dict[str, str]:
    """The tensor whose memory a view uses; a view of a constant owns memory."""
    owners: dict[str, str] = {}
    for operation in graph.operations:
        source = _viewed(operation, graph, kinds)
        if source is not None:
            owners[operation.outputs[0]] = owners.get(source, source)
    return owners


def _viewed(operation: Operation, graph: FileGraph, kinds: frozenset[str]) -> str | None:
    if operation.kind not in kinds or not operation.inputs:
        return None
    source = operation.inputs[0]
    return None if graph.tensors[source].constant else source
