"""Per operation: which iOS it needs, and what is known against the Neural Engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from sdmobile.device_profiles.runtime_rules import core_ml
from sdmobile.device_profiles.runtime_rules.core_ml import Objection, Objections
from sdmobile.formats.mlprogram.ir import Operation
from sdmobile.formats.mlprogram.values import Constant

INTRODUCED = {
    **dict.fromkeys(("constexpr_affine_dequantize", "constexpr_cast", "constexpr_lut_to_dense"), 16),
    **dict.fromkeys(("constexpr_sparse_to_dense", "pixel_unshuffle", "fill_like", "reshape_like"), 16),
    **dict.fromkeys(("quantize", "dequantize", "resize"), 17),
    **dict.fromkeys(("constexpr_blockwise_shift_scale", "constexpr_lut_to_sparse"), 18),
    **dict.fromkeys(("constexpr_sparse_blockwise_shift_scale", "read_state", "slice_update"), 18),
    "scaled_dot_product_attention": 18,
}
"""The iOS version that introduced an operation; older operations are left out."""

INTRODUCED_SOURCE = "coremltools 9.0 converters/mil/mil/ops/defs: the iOS version that introduced each operation"

_SMALL_INTEGERS = ("int4", "uint1", "uint2", "uint3", "uint4", "uint6")
_STORED = ("const", "constexpr_")
_OLDEST = 15  # ML Programs came with iOS 15


def named_constants(operations: Iterable[Operation]) -> dict[str, Constant]:
    """Returns the constants that a program holds as operations of their own, by the names that others use."""
    constants = (item for item in operations if item.type == "const" and "val" in item.attributes)
    return {item.outputs[0].name: item.attributes["val"] for item in constants}


def objections(operation: Operation, ios: int, target: int | None, named: Mapping[str, Constant]) -> Objections:
    """Yields what speaks against an operation.

    Args:
        operation: the operation.
        ios: the iOS version whose operation definitions the program uses.
        target: oldest iOS that must load it, None where that is open.
        named: the program's constants; converters give an operation its parameters by name.
    """
    constants = _constants(operation, named)
    yield from _deployment(operation, _introduced(operation.type, constants), ios, target)
    if operation.type.startswith(_STORED):
        return
    numbers = {name: constant.value for name, constant in constants.items() if isinstance(constant.value, np.ndarray)}
    results = [output.type for output in operation.outputs]
    yield from core_ml.objections(operation.type, operation.name, results, numbers.get)


def _constants(operation: Operation, named: Mapping[str, Constant]) -> dict[str, Constant]:
    """Returns the first constant of each parameter that has one."""
    constants = dict(operation.attributes)
    for parameter, bindings in operation.inputs.items():
        first = bindings[0] if bindings else None
        constant = first if isinstance(first, Constant) else named.get(first or "")
        if constant is not None:
            constants.setdefault(parameter, constant)
    return constants


def _deployment(operation: Operation, needed: int, ios: int, target: int | None) -> Objections:
    if needed > ios:
        yield Objection(
            "refused",
            "operation-newer-than-program",
            f"{operation.type} needs iOS {needed}; the program is written for iOS {ios}",
            f"Convert with the minimum deployment target iOS {needed}",
            INTRODUCED_SOURCE,
        )
    elif target is not None and needed > target:
        yield Objection(
            "refused",
            "deployment-target",
            f"{operation.type} needs iOS {needed}; the device must be served from iOS {target}",
            f"Choose another compression or form, or raise the deployment target to iOS {needed}",
            INTRODUCED_SOURCE,
        )


def _introduced(kind: str, constants: Mapping[str, Constant]) -> int:
    """Returns the iOS version that an operation needs; some got more in iOS 18 under the same name."""
    compressed = kind.startswith("constexpr_")
    if compressed and any(constant.type.dtype in _SMALL_INTEGERS for constant in constants.values()):
        return 18
    return INTRODUCED.get(kind, _OLDEST)
