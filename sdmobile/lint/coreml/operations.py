"""Per operation: which iOS it needs, and what is known against the Neural Engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sdmobile.formats.mlprogram.ir import Operation
from sdmobile.formats.mlprogram.values import Constant
from sdmobile.lint.coreml import sources

MAX_RANK = 5
NEURAL_ENGINE_RANK = 4
MAX_DIMENSION = 16384
MAX_POOL_KERNEL = 13
MAX_POOL_STRIDE = 2
MAX_UPSAMPLE = 2

INTRODUCED = {
    **dict.fromkeys(("constexpr_affine_dequantize", "constexpr_cast", "constexpr_lut_to_dense"), 16),
    **dict.fromkeys(("constexpr_sparse_to_dense", "pixel_unshuffle", "fill_like", "reshape_like"), 16),
    **dict.fromkeys(("quantize", "dequantize", "resize"), 17),
    **dict.fromkeys(("constexpr_blockwise_shift_scale", "constexpr_lut_to_sparse"), 18),
    **dict.fromkeys(("constexpr_sparse_blockwise_shift_scale", "read_state", "slice_update"), 18),
    "scaled_dot_product_attention": 18,
}
"""The iOS version that introduced an operation; older operations are left out."""

_SMALL_INTEGERS = ("int4", "uint1", "uint2", "uint3", "uint4", "uint6")
_OFF_THE_ENGINE = {
    "gather": "look up outside of the program, or in the component that runs on the CPU anyway",
    "gather_along_axis": "use slices",
    "gather_nd": "use slices",
    "lstm": "unroll it",
    "gru": "unroll it",
    "rnn": "unroll it",
}
_STORED = ("const", "constexpr_")
_OLDEST = 15  # ML Programs came with iOS 15


@dataclass(frozen=True)
class Objection:
    """A rule that an operation breaks."""

    severity: Literal["refused", "warning"]
    rule: str
    detail: str
    fix: str
    source: str


Objections = Iterator[Objection]


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
    yield from _shapes(operation)
    yield from _precision(operation)
    yield from _kind(operation)


def _deployment(operation: Operation, ios: int, target: int | None) -> Objections:
    needed = _introduced(operation)
    if needed > ios:
        yield Objection(
            "refused",
            "operation-newer-than-program",
            f"{operation.type} needs iOS {needed}; the program is written for iOS {ios}",
            f"Convert with the minimum deployment target iOS {needed}",
            sources.OPERATIONS,
        )
    elif target is not None and needed > target:
        yield Objection(
            "refused",
            "deployment-target",
            f"{operation.type} needs iOS {needed}; the device must be served from iOS {target}",
            f"Choose another compression or form, or raise the deployment target to iOS {needed}",
            sources.OPERATIONS,
        )


def _introduced(operation: Operation) -> int:
    """Returns the iOS version that an operation needs; some got more in iOS 18 under the same name."""
    compressed = operation.type.startswith("constexpr_")
    stored = [item for bindings in operation.inputs.values() for item in bindings if isinstance(item, Constant)]
    stored += operation.attributes.values()
    if compressed and any(constant.type.dtype in _SMALL_INTEGERS for constant in stored):
        return 18
    return INTRODUCED.get(operation.type, _OLDEST)


def _shapes(operation: Operation) -> Objections:
    for output in operation.outputs:
        sizes = [size for size in output.type.shape if size is not None]
        rank = len(output.type.shape)
        if rank > MAX_RANK:
            yield Objection(
                "refused", "rank", f"{output.type} has rank {rank}", f"Use at most {MAX_RANK} dimensions", sources.RANK
            )
        elif rank > NEURAL_ENGINE_RANK:
            yield Objection(
                "warning",
                "neural-engine-rank",
                f"{output.type} has rank {rank}",
                "Write it with four dimensions, as the rewrite rule for GroupNorm does",
                sources.FOUR_DIMENSIONS,
            )
        if sizes and max(sizes) > MAX_DIMENSION:
            yield Objection(
                "warning",
                "dimension",
                f"{output.type} has a dimension above {MAX_DIMENSION}",
                "Split it, for example attention into blocks of queries",
                sources.DIMENSION,
            )


def _precision(operation: Operation) -> Objections:
    if operation.type != "cast" and operation.dtype == "float32":
        yield Objection(
            "warning",
            "float32",
            f"{operation.outputs[0].type} is computed in float32, which the Neural Engine cannot",
            "Convert with float16 precision, or accept the GPU for this part",
            sources.TYPED,
        )


def _kind(operation: Operation) -> Objections:
    if operation.type in _OFF_THE_ENGINE:
        fix = _OFF_THE_ENGINE[operation.type]
        yield _off(operation, f"{operation.type} is reported off the Neural Engine", fix[0].upper() + fix[1:])
    elif operation.type == "conv" and _largest(operation, "dilations") > 1:
        yield _off(operation, "a dilated convolution is reported off the Neural Engine", "Use no dilation")
    elif operation.type.endswith("_pool"):
        kernel, stride = _largest(operation, "kernel_sizes"), _largest(operation, "strides")
        if kernel > MAX_POOL_KERNEL or stride > MAX_POOL_STRIDE:
            detail = f"kernel {kernel:g}, stride {stride:g}; {MAX_POOL_KERNEL} and {MAX_POOL_STRIDE} at most"
            yield _off(operation, detail, "Pool in several steps", sources.HOLLANCE_LOG)
    elif operation.type.startswith("upsample"):
        factor = max(_largest(operation, name) for name in ("scale_factor_height", "scale_factor_width"))
        if factor > MAX_UPSAMPLE:
            yield _off(operation, f"upsampling by {factor:g}", "Upsample by two several times", sources.HOLLANCE_LOG)


def _off(operation: Operation, detail: str, fix: str, source: str = sources.HOLLANCE) -> Objection:
    return Objection("warning", "off-neural-engine", f"{operation.name}: {detail}", fix, source)


def _largest(operation: Operation, parameter: str) -> float:
    """Returns the largest number of a parameter that is stored in the operation, 1 where it is not."""
    constant = operation.attributes.get(parameter)
    bindings = operation.inputs.get(parameter, ())
    if constant is None and bindings and isinstance(bindings[0], Constant):
        constant = bindings[0]
    value = None if constant is None else constant.value
    return float(np.max(value)) if isinstance(value, np.ndarray) and value.size else 1.0
