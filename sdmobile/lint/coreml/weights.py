"""How many bytes of weights a package stores, and how many bits for each number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sdmobile.formats.mlprogram.blob import BlobFile
from sdmobile.formats.mlprogram.ir import Function, Operation
from sdmobile.formats.mlprogram.package import Package
from sdmobile.formats.mlprogram.values import Constant


@dataclass(frozen=True)
class StoredWeights:
    """The weights of one package.

    Args:
        bytes: as stored in weight files, each blob counted once.
        numbers: decompressed.
        palettes: number of operations that decode a palette.
    """

    bytes: int
    numbers: int
    palettes: int

    @property
    def bits(self) -> float:
        """Stored bits per number."""
        return 8 * self.bytes / self.numbers if self.numbers else 0.0


def stored_weights(package: Package, function: Function) -> StoredWeights:
    """Counts the weights in the weight files; only the metadata of each blob is read.

    Raises:
        PackageError: a weight file is missing, truncated or contradicts the program.
    """
    files: dict[str, BlobFile] = {}
    seen: set[tuple[str, int]] = set()
    total = numbers = palettes = 0
    for operation in function.operations:
        palettes += operation.type.startswith("constexpr_lut")
        compressed = operation.type.startswith("constexpr_")
        if compressed and not _feeds_another(operation, function):
            numbers += sum(output.type.elements for output in operation.outputs)
        for constant in _constants(operation):
            if constant.value is not None or (constant.file, constant.offset) in seen:
                continue
            seen.add((constant.file, constant.offset))
            if constant.file not in files:
                files[constant.file] = BlobFile(package.resolve(constant.file))
            total += files[constant.file].check(constant.offset, constant.type)[2]
            numbers += 0 if compressed else constant.type.elements
    return StoredWeights(total, numbers, palettes)


def _constants(operation: Operation) -> Iterator[Constant]:
    for bindings in operation.inputs.values():
        yield from (item for item in bindings if isinstance(item, Constant))
    yield from operation.attributes.values()


def _feeds_another(operation: Operation, function: Function) -> bool:
    """Whether a compressed constant is only part of another one, such as a compressed palette."""
    if operation.type not in ("constexpr_blockwise_shift_scale", "constexpr_lut_to_sparse"):
        return False
    results = {output.name for output in operation.outputs}
    users = (user for user in function.operations if user.type.startswith("constexpr_"))
    taken = {item for user in users for group in user.inputs.values() for item in group if isinstance(item, str)}
    return bool(results & taken)
