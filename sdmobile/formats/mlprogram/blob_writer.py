"""Writes the weight file of an ML package, one blob after the other.

The layout is coremltools' `mlmodel/src/MILBlob/Blob/StorageFormat.hpp` and `BlobDataType.hpp`: a header of 64 bytes
(number of blobs, version 2), then for each blob 64 bytes of metadata (sentinel 0xDEADBEEF, element type, bytes and
offset of the data, unused bits at its end) and the data; both begin at multiples of 64. A program refers to a blob by
the offset of its metadata.

The numbers stand here once more on purpose: what `blob.py` reads back with its own is evidence about the file only as
long as the two share nothing, which a contract in `pyproject.toml` keeps so.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

_ALIGNMENT = 64
_HEADER = struct.Struct("<II56x")
_METADATA = struct.Struct("<IIQQQ32x")
_SENTINEL = 0xDEADBEEF
_VERSION = 2
_NUMBERS = {
    "float16": 1,
    "float32": 2,
    "uint8": 3,
    "int8": 4,
    "int16": 6,
    "uint16": 7,
    "int4": 8,
    "uint1": 9,
    "uint2": 10,
    "uint4": 11,
    "uint3": 12,
    "uint6": 13,
    "int32": 14,
    "uint32": 15,
}
"""Element types of `BlobDataType.hpp` that numpy can hold."""
PACKED_BITS = {"uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "int4": 4, "uint6": 6}
"""Bits of the elements of which several share a byte."""
_PER_WORD = {1: 8, 2: 4, 3: 8, 4: 2, 6: 4}
"""Elements that fill whole bytes: a word of 8 or 24 bits."""


class BlobWriter:
    """Writes a weight file in one pass; a context manager that completes the header at its end.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self._stream.write(bytes(_HEADER.size))
        self._count = 0

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._stream.seek(0)
            self._stream.write(_HEADER.pack(self._count, _VERSION))
        self._stream.close()

    def add(self, array: NDArray[Any], dtype: str) -> int:
        """Appends an array.

        Args:
            array: elements of fewer than eight bits as int8 or uint8.
            dtype: element type to store ("float16", "uint6", ...).

        Returns:
            Position of the blob's metadata in bytes, by which a program refers to it.
        """
        bits = PACKED_BITS.get(dtype)
        packed = np.ascontiguousarray(array) if bits is None else pack_bits(array, bits)
        unused = 0 if bits is None else packed.size * 8 - array.size * bits
        offset = self._stream.tell()
        start = offset + _METADATA.size
        self._stream.write(_METADATA.pack(_SENTINEL, _NUMBERS[dtype], packed.nbytes, start, unused))
        self._stream.write(packed.reshape(-1).view(np.uint8).data)
        self._stream.write(bytes(-packed.nbytes % _ALIGNMENT))
        self._count += 1
        return offset


def pack_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Packs numbers one after the other from the least significant bit upwards.

    Args:
        values: int8 or uint8; only the lowest `bits` of each count.
        bits: 1, 2, 3, 4, 6 or 8.

    Returns:
        uint8 [ceil(values.size * bits / 8)].
    """
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    if bits == 8:
        return flat
    per_word = _PER_WORD[bits]
    words = np.concatenate([flat, np.zeros(-flat.size % per_word, np.uint8)]) if flat.size % per_word else flat
    width, used = 8, bits
    # Neighbouring elements are joined to words of twice the width, with all used bits at the low end.
    while width < 8 * per_word:
        words = words.view(f"<u{width // 4}")
        low = words.dtype.type((1 << used) - 1)
        words = (words & low) | ((words >> words.dtype.type(width - used)) & (low << words.dtype.type(used)))
        width, used = 2 * width, 2 * used
    packed = words.view(np.uint8).reshape(-1, width // 8)[:, : used // 8]
    return np.ascontiguousarray(packed).reshape(-1)[: -(-flat.size * bits // 8)]
