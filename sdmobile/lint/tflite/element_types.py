"""Element types of computed tensors that each GPU runtime takes, per operator; stored tensors may have others.

Source: GetOpsToReplaceWithOptions and its helpers in LiteRT ml_drift_delegate/tflite/model_builder.cc (quantised
operators and boolean tensors allowed, as the WebGPU and OpenCL accelerators call it), GetOpsToReplace in
LiteRT tflite/delegates/gpu/common/model_builder.cc. Both also refuse any tensor of rank 5 or more there.
"""

from __future__ import annotations

from sdmobile.device_profiles.runtime_rules.tflite_operators import (
    COMPARISONS,
    LOGICAL,
    LOGICAL_REDUCTIONS,
    SELECTS,
    GpuRuntime,
    words,
)
from sdmobile.formats.tflite.model import Node, Tensor
from sdmobile.lint.tflite.problem import CLASSIC, PARSERS, Problem, Problems

MAX_RANK = 4

_FLOATS = frozenset({"FLOAT32", "FLOAT16"})
_SIGNED = frozenset({"INT8", "INT16", "INT32"})
_UNSIGNED = frozenset({"UINT8", "UINT16", "UINT32"})
_LOGICAL = frozenset((*LOGICAL, "LOGICAL_NOT", "BITWISE_XOR"))
_INTEGER = frozenset(
    words(
        "ABS ADD ATAN2 COS DIV FLOOR_DIV FLOOR_MOD MAXIMUM MINIMUM MUL NEG REDUCE_MAX REDUCE_MIN REDUCE_PROD "
        "RIGHT_SHIFT SIGN SIN STABLEHLO_CLAMP SUB SUM STABLEHLO_REMAINDER TILE STABLEHLO_SHIFT_LEFT"
    )
)
_BFLOAT = frozenset(
    words(
        "ABS ADD ATAN2 STABLEHLO_CBRT CEIL STABLEHLO_CLAMP CONV_2D COS DIV EXP FLOOR GATHER LOG LOGISTIC MAXIMUM "
        "MINIMUM MUL NEG POW ROUND RSQRT SIGN SIN SQRT SUB TANH"
    )
)
_ALL = frozenset(
    words(
        "STABLEHLO_BROADCAST_IN_DIM BITCAST CAST CONCATENATION DYNAMIC_UPDATE_SLICE GATHER PACK PAD PADV2 RESHAPE "
        "REVERSE_V2 SELECT SELECT_V2 SLICE STRIDED_SLICE TRANSPOSE"
    )
)
_INDEXED = frozenset(words("EMBEDDING_LOOKUP ONE_HOT DYNAMIC_UPDATE_SLICE"))
_INTEGER_COMPOSITES = frozenset(words("odml.cache_update odml.runtime_bmm moe odml.rope odml.sdpa_transposed"))

_Sets = tuple[frozenset[str], frozenset[str]]


def check_element_types(node: Node, runtime: GpuRuntime) -> Problems:
    """Yields a problem for the first tensor of a node whose rank or element type the runtime does not take."""
    inputs, outputs = _ml_drift(node) if runtime == "ml-drift" else _classic(node)
    source = PARSERS if runtime == "ml-drift" else CLASSIC
    for tensor, allowed in (
        *((t, inputs) for t in node.inputs if t is not None),
        *((t, outputs) for t in node.outputs),
    ):
        if tensor.rank > MAX_RANK:
            yield _too_high(tensor, source)
            return
        if not tensor.constant and tensor.dtype not in allowed:
            yield _wrong_type(tensor, allowed, source)
            return


def _too_high(tensor: Tensor, source: str) -> Problem:
    return Problem(
        "rank",
        f"{tensor} has rank {tensor.rank}; GPU tensors have at most {MAX_RANK} dimensions",
        "Merge dimensions before this operator, for example (batch, group, channel) into two of them",
        source,
    )


def _wrong_type(tensor: Tensor, allowed: frozenset[str], source: str) -> Problem:
    return Problem(
        "element-type",
        f"{tensor} is computed; this operator takes {', '.join(sorted(name.lower() for name in allowed))}",
        "Compute it in float32" if tensor.dtype != "INT64" else "Use int32 instead of int64",
        source,
    )


def _ml_drift(node: Node) -> _Sets:
    """Returns the element types of inputs and of outputs; the order of the cases is that of the source."""
    inputs = set(_FLOATS) | {"BOOL", "INT2", "INT4", "INT8", "UINT8"}
    outputs = set(_FLOATS) | {"INT8", "UINT8"}
    if node.op == "ARG_MAX":
        outputs = {"INT32"}
    if node.op in LOGICAL_REDUCTIONS:
        inputs, outputs = {"BOOL"}, {"BOOL"}
    if node.op in _INDEXED:
        inputs.add("INT32")
    if node.op in COMPARISONS:
        inputs |= _SIGNED | _UNSIGNED
        outputs.add("BOOL")
    if node.op in _LOGICAL:
        inputs, outputs = set(_SIGNED) | {"BOOL"}, set(_SIGNED) | {"BOOL"}
    if node.op == "TOPK_V2":
        outputs.add("INT32")
    if node.op in _BFLOAT:
        inputs.add("BFLOAT16")
        outputs.add("BFLOAT16")
    if node.op in _INTEGER:
        inputs |= _SIGNED
        outputs |= _SIGNED
    if node.composite is not None and node.composite.name == "odml.sdpa_transposed":
        outputs.add("BOOL")
    if node.composite is not None and node.composite.name in _INTEGER_COMPOSITES:
        inputs.add("INT32")
    if node.op in _ALL:
        both = _SIGNED | _UNSIGNED | {"BOOL", "BFLOAT16"}
        inputs |= both
        outputs |= both
    return frozenset(inputs), frozenset(outputs)


def _classic(node: Node) -> _Sets:
    inputs = set(_FLOATS) | {"INT8", "UINT8"}
    outputs = set(_FLOATS) | {"INT8", "UINT8"}
    if node.op in COMPARISONS:
        outputs.add("BOOL")
    if node.op == "CAST":
        inputs |= {"BOOL", "INT32"}
        outputs |= {"BOOL", "INT32"}
    if node.op in ("ONE_HOT", "GATHER"):
        inputs.add("INT32")
    if node.op in (*SELECTS, "LOGICAL_AND"):
        inputs.add("BOOL")
    if node.op == "LOGICAL_AND":
        outputs.add("BOOL")
    return frozenset(inputs), frozenset(outputs)
