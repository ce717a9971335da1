"""The kernels of XNNPACK, which runs a `.tflite` file on the CPU.

XNNPACK computes in float32 here: weights stored in float16 are unpacked when the file is loaded. It has no Winograd's
method of its own. Convolutions are products of tiles whose left operand is gathered by pointers ("indirect GEMM",
Dukhan 2019, arXiv 1907.02129), so they write no patches. Between a unit's caches and its memory the model knows two
limits: tensors that the last-level cache does not hold, and pairs of tiles that the second-level cache does not hold;
they are then read again for every tile of the result.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from sdmobile.device_profiles.runtime_rules.kernel import Kernel
from sdmobile.device_profiles.runtime_rules.tflite_operators import TABLES, kinds
from sdmobile.formats.graph.graph import FileGraph, Operation, Tensor
from sdmobile.prediction.kernels.xnnpack_steps import steps_of
from sdmobile.prediction.kernels.xnnpack_work import Work, work_of

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
