"""Per operation: which iOS it needs, and what is known against the Neural Engine."""

from __future__ import annotations

from typing import Any

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


def objections(operation: Operation, ios: int, target: int | None) -> Objections:
    """Yields what speaks against an operation.

    Args:
        operation: the operation.
        ios: the iOS version whose operation definitions the program uses.
        target: oldest iOS that must load it, None where that is open.
    """
    yield from _deployment(operation, ios, target)
    if operation.type.startswith(_STORED):
        return
    results = [output.type for output in operation.outputs]
    yield from core_ml.objections(operation.type, operation.name, results, lambda name: _numbers(operation, name))


def _deployment(operation: Operation, ios: int, target: int | None) -> Objections:
    needed = _introduced(operation)
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


def _introduced(operation: Operation) -> int:
    """Returns the iOS version that an operation needs; some got more in iOS 18 under the same name."""
    compressed = operation.type.startswith("constexpr_")
    stored = [item for bindings in operation.inputs.values() for item in bindings if isinstance(item, Constant)]
    stored += operation.attributes.values()
    if compressed and any(constant.type.dtype in _SMALL_INTEGERS for constant in stored):
        return 18
    return INTRODUCED.get(operation.type, _OLDEST)


def _numbers(operation: Operation, parameter: str) -> Any:
    """Returns the numbers of a parameter that is stored in the operation, None where it is not."""
    constant = operation.attributes.get(parameter)
    bindings = operation.inputs.get(parameter, ())
    if constant is None and bindings and isinstance(bindings[0], Constant):
        constant = bindings[0]
    value = None if constant is None else constant.value
    return value if isinstance(value, np.ndarray) else None
