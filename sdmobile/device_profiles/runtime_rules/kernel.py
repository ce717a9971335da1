"""What a runtime launches for one or more operations of a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Category = Literal[
    "conv",
    "winograd",
    "depthwise",
    "matmul",
    "attention",
    "softmax",
    "norm",
    "elementwise",
    "copy",
    "reorder",
    "reduce",
    "resize",
    "gather",
]
CATEGORIES: tuple[Category, ...] = get_args(Category)


@dataclass(frozen=True)
class Kernel:
    """One piece of work of a compute unit.

    Args:
        category: class of kernels that shares an efficiency.
        name: path of the source module that asked for it.
        operations: indices in `FileGraph.operations` of what it does.
        macs: multiply-accumulates as executed, after Winograd's method and with the padding of channels.
        operator_macs: multiply-accumulates as the operator is defined (direct convolution).
        read_bytes: activations read, at the precision of the run.
        write_bytes: activations written, at the precision of the run.
        weight_bytes: weights read, as the runtime keeps them.
        launches: number of dispatches.
        fetches: vectors of four channels that the inner loops fetch, weights included; 0 where nothing tells.
        threads: work items that are launched; 0 for one per four output channels.
        note: why this kernel, such as "F(4x4): 128 tiles, 320 channels".
    """

    category: Category
    name: str
    operations: tuple[int, ...]
    macs: int
    operator_macs: int
    read_bytes: int
    write_bytes: int
    weight_bytes: int
    launches: int = 1
    fetches: int = 0
    threads: int = 0
    note: str = ""

    @property
    def bytes(self) -> int:
        """Memory traffic in bytes."""
        return self.read_bytes + self.write_bytes + self.weight_bytes
