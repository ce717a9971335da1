"""Writes the weight file of an ML package, one blob after the other; `formats/mlprogram/blob.py` tells the format."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.formats.mlprogram.blob import BLOB_TYPES, HEADER_BYTES, METADATA_BYTES, SENTINEL, VERSION
from sdmobile.formats.mlprogram.types import BITS

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

_ALIGNMENT = 64
_NUMBERS = {name: number for number, name in BLOB_TYPES.items()}
_PER_WORD = {1: 8, 2: 4, 3: 8, 4: 2, 6: 4}
"""Elements that fill whole bytes: a word of 8 or 24 bits."""


class BlobWriter:
    """Writes a weight file in one pass; a context manager that completes the header at its end.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self._stream.write(bytes(HEADER_BYTES))
        self._count = 0

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._stream.seek(0)
            self._stream.write(struct.pack("<II", self._count, VERSION))
        self._stream.close()

    def add(self, array: NDArray[Any], dtype: str) -> int:
        """Appends an array.

        Args:
            array: elements of fewer than eight bits as int8 or uint8.
            dtype: element type to store ("float16", "uint6", ...).

        Returns:
            Position of the blob's metadata in bytes, by which a program refers to it.
        """
        bits = BITS.get(dtype, 8)
        packed = pack_bits(array, bits) if bits < 8 else np.ascontiguousarray(array)
        unused = packed.size * 8 - array.size * bits if bits < 8 else 0
        offset = self._stream.tell()
        start = offset + METADATA_BYTES
        head = struct.pack("<IIQQQ", SENTINEL, _NUMBERS[dtype], packed.nbytes, start, unused)
        self._stream.write(head.ljust(METADATA_BYTES, b"\0"))
        self._stream.write(packed.reshape(-1).view(np.uint8).data)
        self._stream.write(bytes(-packed.nbytes % _ALIGNMENT))
        self._count += 1
        return offset


def pack_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Packs numbers one after the other from the least significant bit upwards; `unpack_bits` is the inverse.

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
