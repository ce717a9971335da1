"""The operation set of a saved ML Program, which one a number format needs, and raising it to that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError
from sdmobile.formats.mlprogram.ir import OPSETS

if TYPE_CHECKING:
    from pathlib import Path

_NAMES = {ios: name for name, ios in OPSETS.items()}
_VERSIONS = {15: 6, 16: 7, 17: 8, 18: 9, 26: 10}
_REDEFINED_AT_18 = ("constexpr_", "gru")
"""What coremltools 9 defines anew for iOS 18 among operations that iOS 17 has; all others mean the same."""

FLOAT16_IOS = 15
"""ML Programs came with iOS 15, with weights and activations in half precision."""
INTEGER_ACTIVATIONS_IOS = 17
"""`quantize` and `dequantize` of activations came with iOS 17."""


def ios_of_tables(bits: int, *, one_table: bool) -> int:
    """Returns the iOS version from which palettes can be written: `constexpr_lut_to_dense` of coremltools 9.

    iOS 16 has one table per tensor of 1, 2, 4, 6 or 8 bits; 3 bits and tables for groups of channels came with iOS 18.
    """
    return 16 if one_table and bits != 3 else 18


def ios_of_integers(bits: int, *, per_channel: bool) -> int:
    """Returns the iOS version from which integers with scales can be written.

    iOS 16 has 8 bits with a scale per channel (`constexpr_affine_dequantize` of coremltools 9); 4 bits and blocks came
    with iOS 18 (`constexpr_blockwise_shift_scale`).
    """
    return 16 if bits == 8 and per_channel else 18


def ios_of(spec: Any) -> int:
    """Returns the iOS version of the operation set of a Model message, the newest of its functions.

    Raises:
        UnsupportedError: an operation set that is not known.
    """
    opsets = [function.opset for function in spec.mlProgram.functions.values()]
    unknown = [name for name in opsets if name not in OPSETS]
    if unknown or not opsets:
        raise UnsupportedError(f"the operation set must be one of {', '.join(OPSETS)}", unknown)
    return max(OPSETS[name] for name in opsets)


def raise_to(spec: Any, ios: int) -> None:
    """Raises all functions of a Model message from iOS 17 to the operation set of iOS 18.

    Args:
        spec: changed in place.
        ios: 18.

    Raises:
        UnsupportedError: another step, or the program holds an operation whose meaning changed.
    """
    for function in spec.mlProgram.functions.values():
        before = OPSETS[function.opset]
        if before == ios:
            continue
        if (before, ios) != (17, 18):
            raise UnsupportedError(
                "the operation set is raised from iOS 17 to 18 only",
                f"{before} to {ios}",
                "Export again for a device profile whose deployment target is iOS 17 or 18",
            )
        block = function.block_specializations[function.opset]
        changed = sorted({op.type for op in block.operations if op.type.startswith(_REDEFINED_AT_18)})
        if changed:
            raise UnsupportedError("iOS 18 defines these operations differently", changed, "Export again for iOS 18")
        old = function.opset
        function.opset = _NAMES[ios]
        function.block_specializations[_NAMES[ios]].CopyFrom(block)
        del function.block_specializations[old]
    spec.specificationVersion = max(spec.specificationVersion, _VERSIONS[ios])


def ios_of_package(path: Path) -> int:
    """Returns the iOS version of the operation set of a saved package, the newest of its functions."""
    from sdmobile.formats.mlprogram.read import function_names, read_program

    return max(read_program(path, name)[1].ios for name in function_names(path))
