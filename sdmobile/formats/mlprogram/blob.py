"""Reads the weight file of an ML package, memory-mapped.

Format ("blob storage v2"): a header of 64 bytes (count, version), then per blob 64 bytes of metadata (sentinel,
element type, size and offset of the data in bytes, unused bits at its end) and the data. Elements of fewer than eight
bits are packed from the least significant bit upwards. Nothing is taken from `blob_writer.py`, nor the other way round.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from sdmobile.formats.mlprogram.errors import PackageError
from sdmobile.formats.mlprogram.types import BITS, TensorType

HEADER_BYTES = 64
METADATA_BYTES = 64
SENTINEL = 0xDEADBEEF
VERSION = 2
BLOB_TYPES = {
    1: "float16",
    2: "float32",
    3: "uint8",
    4: "int8",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}
"""Number in the metadata to name; the missing 5, 16 and 17 are bfloat16 and two float8 types."""
_SAME_BYTES = {("bool", "uint8")}


class BlobFile:
    """One weight file.

    Args:
        path: the file.

    Raises:
        PackageError: the file is missing, too short or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise PackageError("The weight file that the program names must exist", path, "Export the model again")
        size = path.stat().st_size
        if size < HEADER_BYTES:
            raise self._error("it is shorter than its header", size)
        # Copy on write: torch refuses to wrap read-only memory, and nothing ever writes to it.
        self._bytes = np.memmap(path, dtype=np.uint8, mode="c")
        version = struct.unpack("<II", self._bytes[:8].tobytes())[1]
        if version != VERSION:
            raise self._error(f"its version is not {VERSION}", version)

    def read(self, offset: int, expected: TensorType) -> np.ndarray:
        """Returns one blob, without copying it if its elements are whole bytes.

        Args:
            offset: position of the metadata in bytes.
            expected: type that the program declares for the value.

        Returns:
            Array of shape `expected.shape`; elements of fewer than eight bits come as int8 or uint8.

        Raises:
            PackageError: the file is truncated or contradicts `expected`.
        """
        dtype, start, size = self.check(offset, expected)
        data = self._bytes[start : start + size]
        bits = _bits(dtype)
        if bits < 8:
            values = unpack_bits(data, bits, expected.elements, signed=dtype == "int4")
        else:
            values = data.view(expected.dtype)
        return values.reshape(expected.sizes)

    def packed(self, offset: int, expected: TensorType) -> np.ndarray:
        """Returns the bytes of one blob, uint8; otherwise as `read`."""
        _, start, size = self.check(offset, expected)
        return self._bytes[start : start + size]

    def check(self, offset: int, expected: TensorType) -> tuple[str, int, int]:
        """Checks one blob against the type that the program declares.

        Returns:
            Element type as stored, position and size of the data in bytes.

        Raises:
            PackageError: the file is truncated or contradicts `expected`.
        """
        if offset + METADATA_BYTES > len(self._bytes):
            raise self._error("it ends before the metadata of a blob", f"offset {offset}")
        sentinel, number, size, start, unused_bits = struct.unpack(
            "<IIQQQ", self._bytes[offset : offset + 32].tobytes()
        )
        if sentinel != SENTINEL:
            raise self._error("there is no blob at an offset that the program names", f"offset {offset}")
        dtype = BLOB_TYPES.get(number)
        if dtype is None:
            raise self._error("a blob has an element type that the evaluator does not read", number)
        if dtype != expected.dtype and (expected.dtype, dtype) not in _SAME_BYTES:
            raise self._error("a blob has another type than the program says", f"{dtype}, not {expected}")
        bits = _bits(dtype)
        if size * 8 - unused_bits != expected.elements * bits:
            raise self._error("a blob has another size than the program says", f"{size} bytes for {expected}")
        if start + size > len(self._bytes):
            raise self._error("it ends inside a blob", f"{start + size} > {len(self._bytes)} bytes")
        return dtype, start, size

    def _error(self, what: str, value: object) -> PackageError:
        return PackageError(f"{self.path.name} must be a complete weight file, but {what}", value, "Export it again")


def _bits(dtype: str) -> int:
    return BITS.get(dtype) or np.dtype(dtype).itemsize * 8


def unpack_bits(data: np.ndarray, bits: int, count: int, signed: bool = False) -> np.ndarray:
    """Unpacks numbers of 1, 2, 3, 4, 6 or 8 bits that follow each other from the least significant bit upwards.

    Args:
        data: packed bytes, uint8 [ceil(count * bits / 8)].
        bits: width of an element.
        count: number of elements.
        signed: interpret the elements as two's complement.

    Returns:
        uint8 or int8 array [count].
    """
    mask = (1 << bits) - 1
    if bits == 8:
        values = np.asarray(data)
    elif 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        values = (data[:, None] >> shifts) & np.uint8(mask)
    else:
        # Three bytes hold a whole number of elements of 3 or 6 bits.
        padded = np.concatenate([data, np.zeros(-len(data) % 3, np.uint8)]).reshape(-1, 3).astype(np.uint32)
        words = padded[:, 0] | padded[:, 1] << 8 | padded[:, 2] << 16
        shifts = np.arange(0, 24, bits, dtype=np.uint32)
        values = ((words[:, None] >> shifts) & np.uint32(mask)).astype(np.uint8)
    values = values.reshape(-1)[:count]
    if not signed:
        return values
    half = 1 << (bits - 1)
    return ((values.astype(np.int16) ^ half) - half).astype(np.int8)
