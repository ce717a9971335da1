"""Constants of a program as tensors, decoded when an operation needs them.

A full-size UNet stores 1.7 GB of float16 weights. Held as float32 they would take 3.4 GB beside the activations, and
converting them takes a second of a forward pass; so only as many are kept as float32 as a small network has, the
others stay memory-mapped and are converted at each use. What is expensive to decode (compressed weights) is kept up
to a limit of its own, and so is everything small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from sdmobile.formats.mlprogram.blob import BlobFile
from sdmobile.formats.mlprogram.errors import PackageError
from sdmobile.formats.mlprogram.ir import Operation
from sdmobile.formats.mlprogram.package import Package
from sdmobile.formats.mlprogram.types import BITS, FLOATS
from sdmobile.formats.mlprogram.values import Constant
from sdmobile.runtimes.mlprogram import palette
from sdmobile.runtimes.mlprogram.constexpr import ConstexprError, Decoder
from sdmobile.runtimes.mlprogram.precision import Rounding

ALWAYS_KEPT_BYTES = 1 << 16
"""Size up to which a decoded constant is kept whatever the limit."""


@dataclass(frozen=True, eq=False)
class Compressed:
    """A `constexpr_*` operation with the constants it decodes, which may be results of others."""

    operation: Operation
    decoder: Decoder
    arguments: dict[str, Constant | CompressedOutput]


@dataclass(frozen=True, eq=False)
class CompressedOutput:
    """One of the results of a compressed constant."""

    source: Compressed
    index: int


Stored = Constant | CompressedOutput


class Weights:
    """The constants of one package.

    Args:
        package: where the weight files are.
        rounding: whether decoded values of type float16 are rounded to it, as on the phone.
        cache_bytes: limit for decoded compressed weights that are kept; a quarter as much is the limit for tensors.
    """

    def __init__(self, package: Package, rounding: Rounding, cache_bytes: int) -> None:
        self._package = package
        self._half = rounding.results
        self._left = cache_bytes
        self._tensors_left = cache_bytes // 4
        self._files: dict[str, BlobFile] = {}
        self._tensors: dict[Stored, torch.Tensor] = {}
        self._arrays: dict[Compressed, tuple[np.ndarray, ...]] = {}

    def tensor(self, stored: Stored) -> torch.Tensor:
        """Returns a constant: float32 for floats, int32 for integers, bool for bool."""
        if stored in self._tensors:
            return self._tensors[stored]
        array = self.array(stored)
        if array.dtype.kind == "f":
            tensor = torch.from_numpy(array if array.flags.c_contiguous else array.copy()).float()
        else:
            tensor = torch.from_numpy(array.astype(np.bool_ if _dtype(stored) == "bool" else np.int32))
        if tensor.nbytes <= ALWAYS_KEPT_BYTES:
            self._tensors[stored] = tensor
        elif tensor.nbytes <= self._tensors_left:
            self._tensors_left -= tensor.nbytes
            self._tensors[stored] = tensor
            self._forget_array(stored)
        return tensor

    def array(self, stored: Stored) -> np.ndarray:
        """Returns a constant as it is stored, or as its decoder returns it."""
        if isinstance(stored, CompressedOutput):
            return self._decoded(stored.source)[stored.index]
        if isinstance(stored.value, np.ndarray):
            return stored.value
        return self._file(stored.file).read(stored.offset, stored.type)

    def check(self, stored: Stored) -> None:
        """Raises PackageError unless the bytes of a constant are there."""
        if isinstance(stored, CompressedOutput):
            for argument in stored.source.arguments.values():
                self.check(argument)
        elif stored.value is None:
            self._file(stored.file).check(stored.offset, stored.type)

    def decode_all(self, constants: Iterable[Stored]) -> None:
        """Decodes compressed constants and keeps them, up to the limit of the cache."""
        for stored in constants:
            if isinstance(stored, CompressedOutput):
                self._decoded(stored.source)

    def _file(self, name: str) -> BlobFile:
        if name not in self._files:
            self._files[name] = BlobFile(self._package.resolve(name))
        return self._files[name]

    def _decoded(self, compressed: Compressed) -> tuple[np.ndarray, ...]:
        if compressed in self._arrays:
            return self._arrays[compressed]
        operation = compressed.operation
        fast = self._looked_up(compressed)
        results = self._decode(compressed) if fast is None else (fast,)
        results = tuple(self._as_declared(array, operation, index) for index, array in enumerate(results))
        size = sum(array.nbytes for array in results)
        if size <= self._left:
            self._left -= size
            self._arrays[compressed] = results
        return results

    def _forget_array(self, stored: Stored) -> None:
        """Drops the decoded array of a weight that is kept as a tensor, if nothing else is decoded with it."""
        if isinstance(stored, CompressedOutput) and len(stored.source.operation.outputs) == 1:
            self._left += sum(array.nbytes for array in self._arrays.pop(stored.source, ()))

    def _decode(self, compressed: Compressed) -> tuple[np.ndarray, ...]:
        arrays = {
            name: self.array(stored)
            for name, stored in compressed.arguments.items()
            if not (isinstance(stored, Constant) and isinstance(stored.value, str))
        }
        try:
            result = compressed.decoder.decode(arrays)
        except ConstexprError as error:
            raise _contradiction(compressed.operation, str(error)) from error
        return result if isinstance(result, tuple) else (result,)

    def _looked_up(self, compressed: Compressed) -> np.ndarray | None:
        """Decodes a large palette straight from its packed bytes; None where that is not possible."""
        indices = compressed.arguments.get("indices")
        if not isinstance(indices, Constant) or indices.value is not None or "lut" not in compressed.arguments:
            return None
        lut = self.array(compressed.arguments["lut"])
        packed = self._file(indices.file).packed(indices.offset, indices.type)
        shape = compressed.operation.outputs[0].type.sizes
        if lut.ndim == 1:  # iOS 16: the indices are packed into a tensor of bytes
            if lut.size not in (2, 4, 16, 64, 256):
                return None
            bits = lut.size.bit_length() - 1
            if len(packed) * 8 // bits < math.prod(shape):
                return None
            values = palette.lookup(packed, bits, lut.reshape(1, -1), math.prod(shape))
            return None if values is None else values.reshape(shape)
        if indices.type.shape != shape:
            return None
        return palette.packed_lookup(packed, BITS.get(indices.type.dtype, 8), lut, shape)

    def _as_declared(self, array: np.ndarray, operation: Operation, index: int) -> np.ndarray:
        declared = operation.outputs[index].type
        if not declared.fits(array.shape) or (array.dtype.kind == "f") != (declared.dtype in FLOATS):
            raise _contradiction(operation, f"{array.dtype}{list(array.shape)} decoded, {declared} declared")
        return array.astype(np.float16) if self._half and declared.dtype == "float16" else array


def _dtype(stored: Stored) -> str:
    if isinstance(stored, CompressedOutput):
        return stored.source.operation.outputs[stored.index].type.dtype
    return stored.type.dtype


def _contradiction(operation: Operation, what: str) -> PackageError:
    return PackageError(
        "Compressed weights must be stored as their operation defines",
        f"{operation.type} '{operation.name}': {what}",
        "Export the model again",
    )
