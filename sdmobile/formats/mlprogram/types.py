"""Element types and tensor types of the Model Intermediate Language (MIL)."""

from __future__ import annotations

import math
from dataclasses import dataclass

DATA_TYPES = {
    1: "bool",
    2: "string",
    10: "float16",
    11: "float32",
    12: "float64",
    13: "bfloat16",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    34: "uint64",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
    40: "float8e4m3fn",
    41: "float8e5m2",
}
"""Number in `MIL.proto` to name."""

ARRAY_TYPES = {65568: "float32", 65552: "float16", 131104: "int32", 131080: "int8"}
"""Number in `FeatureTypes.proto` to name, for the arrays a program takes and returns."""

BITS = {"int4": 4, "uint4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint6": 6, "bool": 8}
"""Bits per element where the name does not say it as numpy does."""

FLOATS = ("float16", "float32")
INTEGERS = ("int8", "int16", "int32", "uint8", "uint16", "uint32", "int4", "uint1", "uint2", "uint3", "uint4", "uint6")


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of a tensor; a scalar has the shape (), a size that depends on the inputs is None.

    If even the number of axes depends on them (`any_rank`), the shape is (None,).
    """

    dtype: str
    shape: tuple[int | None, ...]
    any_rank: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape, which must be known."""
        known = tuple(size for size in self.shape if size is not None)
        if len(known) != len(self.shape):
            raise ValueError(f"{self} has no fixed shape")
        return known

    @property
    def elements(self) -> int:
        """Number of elements of a fixed shape."""
        return math.prod(self.sizes)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Returns whether a tensor of this shape is one of this type."""
        if self.any_rank:
            return True
        return len(shape) == len(self.shape) and all(s in (None, n) for s, n in zip(self.shape, shape, strict=True))

    def __str__(self) -> str:
        if self.any_rank:
            return f"{self.dtype}[...]"
        return f"{self.dtype}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class NamedType:
    """A named value with its type."""

    name: str
    type: TensorType
