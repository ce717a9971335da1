"""The stored tensors of an exported file: name, place in the file, element type and shape."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOATS = {"FLOAT32": "float32", "FLOAT16": "float16"}


@dataclass(frozen=True)
class Slot:
    """One stored tensor.

    Args:
        name: in the file.
        offset: bytes from the file's start.
        dtype: element type; "uint8" where it holds no floating-point numbers.
        shape: its axes.
    """

    name: str
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its length in the file."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def read(self, content: memoryview | bytes) -> NDArray[np.generic]:
        """Returns the tensor out of the content of its file."""
        return np.frombuffer(content, self.dtype, int(np.prod(self.shape)), self.offset).reshape(self.shape)


def mapped(path: Path) -> memoryview:
    """Returns the content of a file, mapped into memory."""
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def slots_of(path: Path, package: Path) -> tuple[Slot, ...]:
    """Returns the stored tensors of one file, in the order of the file; none of a file of another kind.

    Args:
        path: a `.tflite` file, or a file of a package.
        package: the `.mlpackage` folder that the file lies in; for a `.tflite` file the file itself.
    """
    if path.suffix == ".tflite":
        found = _of_tflite(path)
    elif path.suffix == ".bin":
        found = _of_weight_file(path, package)
    else:
        return ()
    ordered = sorted(found, key=lambda slot: slot.offset)
    for one, following in pairwise(ordered):
        if one.offset + one.bytes > following.offset:
            raise UnsupportedError("stored tensors must not overlap", f"{one.name} and {following.name} in {path.name}")
    return tuple(ordered)


def _of_weight_file(path: Path, package: Path) -> Iterator[Slot]:
    from sdmobile.formats.mlprogram.blob import BlobFile
    from sdmobile.formats.mlprogram.constants import stored_constants
    from sdmobile.formats.mlprogram.types import TensorType

    blobs = BlobFile(path)
    for constant in stored_constants(package):
        dtype, start, size = blobs.check(constant.blob[1], TensorType(constant.dtype, constant.shape))
        if dtype in ("float16", "float32"):
            yield Slot(constant.name, start, dtype, constant.shape)
        else:
            yield Slot(constant.name, start, "uint8", (size,))


def _of_tflite(path: Path) -> Iterator[Slot]:
    from sdmobile.formats.tflite.reader import read_model

    seen: set[int] = set()
    for graph in read_model(path).graphs:
        for tensor in graph.tensors:
            if tensor.data is None or tensor.buffer in seen:
                continue
            seen.add(tensor.buffer)
            dtype = _FLOATS.get(tensor.dtype, "uint8")
            shape = tensor.shape if dtype != "uint8" else (len(tensor.data),)
            yield Slot(tensor.name, tensor.start, dtype, shape)
