"""Lints a Core ML package: its operations, its weights, and the iOS it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sdmobile.device_profiles.runtime_rules.core_ml import PALETTES, PALETTES_STAY
from sdmobile.errors import UnsupportedError
from sdmobile.formats.errors import FormatError, whole
from sdmobile.formats.mlprogram.blob import BlobFile
from sdmobile.formats.mlprogram.ir import Function, Operation
from sdmobile.formats.mlprogram.package import Package
from sdmobile.formats.mlprogram.read import read_program
from sdmobile.formats.mlprogram.types import TensorType
from sdmobile.formats.mlprogram.values import Constant
from sdmobile.lint.coreml.operations import INTRODUCED_SOURCE, named_constants, objections
from sdmobile.lint.limits import Limits
from sdmobile.lint.report import Finding, LintReport


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


RUNTIME = "core-ml"
CHUNK_BYTES = 1_000_000_000
CHUNK_BITS = 6
_CHUNKS = "apple/ml-stable-diffusion README, --chunk-unet: chunks below 1 GB of weights, or at most 6 bits, for iPhones"
_BASIS = "rules published by Apple and others, read and not run; where an operation runs is Core ML's own decision"


def lint_package(path: Path, limits: Limits) -> LintReport:
    """Predicts what an iPhone says to a Core ML package.

    Args:
        path: the `.mlpackage` folder.
        limits: what the device can hold, and the oldest iOS that must load the package.

    Returns:
        The report. "refused" stands for what Core ML or Apple's own rules exclude; what may merely keep an operation
        off the Neural Engine is a warning.

    Raises:
        FormatError: the package is missing, incomplete or truncated.
    """
    try:
        package, function = read_program(path)
        with whole(path):
            findings = [*_operation_findings(function, limits), *_weight_findings(package, function, limits)]
    except UnsupportedError as error:
        raise FormatError(error.rule, error.value, error.fix) from error
    computed = [operation for operation in function.operations if operation.type != "const"]
    return LintReport(str(path), RUNTIME, _BASIS, len(computed), tuple(findings))


def _operation_findings(function: Function, limits: Limits) -> Iterator[Finding]:
    if limits.deployment_target is not None and function.ios > limits.deployment_target:
        yield Finding(
            "refused",
            "deployment-target",
            f"the program is written for iOS {function.ios}; the device must be served from iOS "
            f"{limits.deployment_target}",
            f"Export with the deployment target iOS {limits.deployment_target}",
            limits.source or INTRODUCED_SOURCE,
        )
        limits = replace(limits, deployment_target=None)  # said once for the program, not for every operation
    names = {item.name: item.type for item in function.inputs}
    names.update((item.name, item.type) for operation in function.operations for item in operation.outputs)
    constants = named_constants(function.operations)
    for operation in function.operations:
        for objection in objections(operation, function.ios, limits.deployment_target, constants):
            yield Finding(
                objection.severity,
                objection.rule,
                objection.detail,
                objection.fix,
                objection.source,
                op=operation.type,
                node=operation.name,
                shapes={
                    "inputs": [_shown(item, names) for bindings in operation.inputs.values() for item in bindings],
                    "outputs": [str(item.type) for item in operation.outputs],
                },
            )


def _shown(binding: str | Constant, names: dict[str, TensorType]) -> str:
    return f"{binding.type} constant" if isinstance(binding, Constant) else str(names.get(binding, "unknown"))


def _weight_findings(package: Package, function: Function, limits: Limits) -> Iterator[Finding]:
    weights = stored_weights(package, function)
    if weights.bytes >= CHUNK_BYTES and weights.bits > CHUNK_BITS:
        yield Finding(
            "refused",
            "chunk-size",
            f"{weights.bytes / 1e9:.2f} GB of weights at {weights.bits:.1f} bits each, in one package",
            f"Export in chunks below {CHUNK_BYTES / 1e9:.0f} GB, or with palettes of at most {CHUNK_BITS} bits",
            _CHUNKS,
        )
    if limits.file_bytes is not None and weights.bytes > limits.file_bytes:
        yield Finding(
            "refused",
            "file-size",
            f"{weights.bytes} bytes of weights; {limits.file_bytes} at most",
            "Compress the weights, or export in chunks",
            limits.source,
        )
    if weights.palettes and function.ios < PALETTES_STAY:
        yield Finding(
            "warning",
            "palettes-load-whole",
            f"{weights.palettes} palettes in a program for iOS {function.ios}: decompressed when the model loads",
            f"Export with the deployment target iOS {PALETTES_STAY}, from which on they are decompressed as needed",
            PALETTES,
        )
