"""Copies weights from one blob file of Core ML to another.

Layout, from coremltools' mlmodel/src/MILBlob/Blob/StorageFormat.hpp: a header of 64 bytes (number of blobs, version 2),
then for each blob 64 bytes of metadata (sentinel 0xDEADBEEF, type, bytes, offset of the data, padding bits) and its
data; everything starts at multiples of 64. A program refers to a blob by the offset of its metadata.
"""

from __future__ import annotations

import struct
from pathlib import Path

from sdmobile.errors import CheckpointError

_ALIGNMENT = 64
_SENTINEL = 0xDEADBEEF
_METADATA = struct.Struct("<IIQQQ")
_HEADER = struct.Struct("<II")
_VERSION = 2


class BlobReader:
    """One blob file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def data(self, offset: int) -> bytes:
        """Returns the data of the blob whose metadata is at an offset."""
        _, size, start, _ = self.metadata(offset)
        return self._bytes(start, size)

    def metadata(self, offset: int) -> tuple[int, int, int, int]:
        """Returns type, bytes, offset of the data and padding bits.

        Raises:
            CheckpointError: there is no blob.
        """
        sentinel, kind, size, start, padding = _METADATA.unpack(self._bytes(offset, _METADATA.size))
        if sentinel != _SENTINEL:
            raise CheckpointError("a weight must be a blob of its weight file", f"{self._path}, byte {offset}")
        return kind, size, start, padding

    def _bytes(self, offset: int, size: int) -> bytes:
        with self._path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
        if len(data) != size:
            raise CheckpointError("a weight file must hold every weight", f"{self._path} ends before {offset + size}")
        return data


class BlobWriter:
    """A blob file in the making."""

    def __init__(self) -> None:
        self._content = bytearray(_ALIGNMENT)
        self._count = 0

    def add(self, source: BlobReader, offset: int) -> int:
        """Copies a blob and returns the offset of its metadata here."""
        kind, size, _, padding = source.metadata(offset)
        here = len(self._content)
        metadata = _METADATA.pack(_SENTINEL, kind, size, here + _ALIGNMENT, padding)
        self._content += metadata.ljust(_ALIGNMENT, b"\0") + source.data(offset)
        self._content += bytes(-len(self._content) % _ALIGNMENT)
        self._count += 1
        return here

    def write(self, path: Path) -> None:
        """Writes the file, if there is a blob in it."""
        if self._count:
            _HEADER.pack_into(self._content, 0, self._count, _VERSION)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._content)
