"""Rules that both GPU runtimes ask of an operator before their own.

Source: CheckGpuDelegateCompatibility in LiteRT tflite/tools/versioning/gpu_compatibility.cc. An operator that the
function does not know is refused there, whatever the runtime's own parser could do.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from sdmobile.device_profiles.runtime_rules import tflite_operators as operators
from sdmobile.device_profiles.runtime_rules.tflite_operators import words
from sdmobile.formats.tflite.model import Node, Tensor
from sdmobile.lint.tflite.problem import SHARED as SOURCE
from sdmobile.lint.tflite.problem import Check, Problem, Problems, constant_axes, fused_activation, operands

Broadcast = Literal["enhanced", "standard"]

_BINARY = (*operators.PAIRS, *operators.COMPARISONS, *operators.LOGICAL, *operators.SHIFTS, "STABLEHLO_REMAINDER")
_ONE_INPUT = words("BITCAST RESHAPE TILE TRANSPOSE QUANTIZE HARD_SWISH")
_REDUCTIONS = (*operators.REDUCTIONS, *operators.LOGICAL_REDUCTIONS, "REVERSE_V2")
_UNCHECKED = words("CONCATENATION PACK PRELU RELU RELU6 RELU_N1_TO_1 LEAKY_RELU SPLIT SPLIT_V LSTM CUSTOM")
_PAD_ROWS = (3, 4)


def check_shared(node: Node, broadcast: Broadcast) -> Problems:
    """Yields what the rules of both runtimes say against a node.

    Args:
        node: the node.
        broadcast: how ADD and MUL may broadcast; ML Drift asks for "enhanced", the classic delegate for "standard".
    """
    if node.op in ("ADD", "MUL"):
        yield from _add_mul(node, broadcast)
    elif node.op in _CHECKS:
        yield from _CHECKS[node.op](node)
    elif node.op not in _UNCHECKED:
        yield Problem(
            "not-in-shared-rules",
            f"{node.op} has a parser, but is not among the operators of the shared check",
            "Write it with other operators before the export",
            SOURCE,
        )


def _add_mul(node: Node, broadcast: Broadcast) -> Problems:
    if len(node.inputs) != 2 or None in node.inputs:
        yield Problem(
            "operands", f"{node.op} has {len(node.inputs)} inputs, not 2", "Add two tensors at a time", SOURCE
        )
        return
    first, second = node.inputs
    assert first is not None
    assert second is not None
    if first.rank > 1 and second.rank > 1 and first.rank != second.rank and not _broadcasts(first, second, broadcast):
        yield Problem(
            "broadcast",
            f"{first} and {second} do not broadcast on the GPU",
            "Reshape the smaller one to the rank of the larger one",
            SOURCE,
        )
    if node.op == "MUL":
        yield from fused_activation(node, SOURCE)


def _broadcasts(first: Tensor, second: Tensor, broadcast: Broadcast) -> bool:
    long, short = sorted((first.shape, second.shape), key=len, reverse=True)
    if broadcast == "enhanced":
        pairs = zip(reversed(long), reversed(short), strict=False)
        return all(a == b or 1 in (a, b) for a, b in pairs)
    if len(long) != 4 or len(short) not in (2, 3):
        return False
    if len(short) == 3 or short == (1, 1):
        return long[0] == 1
    return long[0] == short[0] and long[3] == short[1]


def _binary(node: Node) -> Problems:
    if len(node.outputs) != 1 or (len(node.runtime), len(node.constants)) not in ((2, 0), (1, 1)):
        yield Problem(
            "operands",
            f"{node.op} has {len(node.runtime)} computed, {len(node.constants)} stored inputs; 2 and 0 or 1 and 1 work",
            "Compute what depends on constants alone before the export",
            SOURCE,
        )
    if node.op in ("DIV", "SUB"):
        yield from fused_activation(node, SOURCE)


def _add_n(node: Node) -> Problems:
    if len(node.inputs) != 2:
        yield Problem("operands", f"ADD_N has {len(node.inputs)} inputs, not 2", "Write it as several ADD", SOURCE)


def _reduction(node: Node) -> Problems:
    yield from constant_axes(node, SOURCE)
    yield from operands(node, SOURCE, runtime=1, constants=1)


def _batch_matmul(node: Node) -> Problems:
    if len(node.inputs) != 2 or len(node.outputs) != 1:
        yield Problem("operands", f"BATCH_MATMUL has {len(node.inputs)} inputs", "Export the model again", SOURCE)


def _convolution(node: Node) -> Problems:
    if len(node.runtime) not in (1, 2) or len(node.outputs) != 1:
        yield Problem(
            "operands",
            f"{node.op} has {len(node.runtime)} computed inputs; 1 (stored weights) or 2 work",
            "Store the bias, and compute constants before the export",
            SOURCE,
        )
    for field in ("strideH", "strideW", "dilationHFactor", "dilationWFactor"):
        if node.options.get(field, 1) <= 0:
            yield Problem("stride", f"{field} is {node.options[field]}", "Use positive strides and dilations", SOURCE)
    yield from fused_activation(node, SOURCE)


def _depthwise(node: Node) -> Problems:
    yield from _convolution(node)
    image, weights, bias = node.input(0), node.input(1), node.input(2)
    result = node.outputs[0]
    if image is None or weights is None or {image.rank, weights.rank, result.rank} != {4}:
        yield Problem("rank", "input, weights and result must have rank 4", "Reshape them to rank 4", SOURCE)
        return
    channels = image.shape[3] * node.options.get("depthMultiplier", 1)
    sizes = {weights.shape[3], channels} | ({bias.elements} if bias is not None else set())
    if image.shape[0] != result.shape[0] or sizes != {result.shape[3]}:
        yield Problem(
            "channels",
            f"{image} by {weights} to {result}: batch and channels must agree (channels times multiplier)",
            "Write it as CONV_2D",
            SOURCE,
        )


def _pooling(node: Node) -> Problems:
    yield from operands(node, SOURCE, runtime=1)
    for field in ("filterHeight", "filterWidth", "strideH", "strideW"):
        if node.options.get(field, 1) <= 0:
            yield Problem("stride", f"{field} is {node.options[field]}", "Use positive sizes and strides", SOURCE)
    yield from fused_activation(node, SOURCE)


def _block(node: Node) -> Problems:
    yield from operands(node, SOURCE, runtime=1)
    size = node.options.get("blockSize", 0)
    if size <= 1:
        yield Problem("block-size", f"block size {size}", "Leave the operator out; it does nothing", SOURCE)


def _dequantize(node: Node) -> Problems:
    stored = node.input(0)
    if len(node.inputs) != 1 or len(node.outputs) != 1 or stored is None:
        yield Problem("operands", f"DEQUANTIZE has {len(node.inputs)} inputs", "Export the model again", SOURCE)
    elif stored.dtype == "INT16":
        yield Problem("element-type", "int16 is not dequantized", "Quantize to int8 or use float16", SOURCE)


def _embedding(node: Node) -> Problems:
    ids, table = node.input(0), node.input(1)
    if len(node.inputs) != 2 or ids is None or table is None:
        yield Problem("operands", f"EMBEDDING_LOOKUP has {len(node.inputs)} inputs", "Export the model again", SOURCE)
    elif ids.rank != 1 or table.rank < 2 or table.rank != node.outputs[0].rank:
        yield Problem(
            "indices-rank",
            f"ids {ids}, table {table}, result {node.outputs[0]}: ids must have rank 1, table and result the same rank",
            "Flatten the ids before and reshape the result after",
            SOURCE,
        )
    elif table.dtype not in ("FLOAT32", "INT8", "INT4", "INT2"):
        yield Problem("element-type", f"table {table}", "Store the table as float32, int8 or int4", SOURCE)


def _fully_connected(node: Node) -> Problems:
    if node.options.get("weightsFormat", 0):
        yield Problem("weights-format", "shuffled weights", "Store the weights in the default order", SOURCE)
    if len(node.runtime) > 2:
        yield Problem("operands", f"{len(node.runtime)} computed inputs", "Store weights or bias", SOURCE)
    first = node.input(0)
    if first is None or first.constant:
        yield Problem(
            "constant-input", "the input is a constant", "Compute the product before the export, or swap sides", SOURCE
        )
    elif node.options.get("keepNumDims") and first.rank != node.outputs[0].rank:
        yield Problem(
            "keep-dims", f"keep_num_dims with {first} and {node.outputs[0]}", "Reshape outside of the operator", SOURCE
        )


def _gather(node: Node) -> Problems:
    indices = node.input(1)
    if indices is None or len(node.outputs) != 1 or (len(node.runtime), len(node.constants)) not in ((2, 0), (1, 1)):
        yield Problem(
            "operands", "one table and one list of indices work", "Compute constants before the export", SOURCE
        )
    elif indices.rank != 1:
        yield Problem("indices-rank", f"indices {indices}", "Flatten the indices and reshape the result", SOURCE)
    elif indices.dtype != "INT32":
        yield Problem("indices-type", f"indices {indices}", "Use int32 indices", SOURCE)


def _softmax(node: Node) -> Problems:
    beta = node.options.get("beta", 1.0)
    if beta != 1:
        yield Problem("softmax-beta", f"beta {beta}", "Multiply before the SOFTMAX instead", SOURCE)


def _resize(node: Node) -> Problems:
    yield from operands(node, SOURCE, runtime=1)
    both = node.options.get("alignCorners") and node.options.get("halfPixelCenters")
    if node.op == "RESIZE_BILINEAR" and both:
        yield Problem("resize-flags", "align_corners and half_pixel_centers", "Use one of the two", SOURCE)


def _padding(node: Node) -> Problems:
    if node.op == "MIRROR_PAD" and node.options.get("mode", 0) != 0:
        yield Problem("pad-mode", "symmetric padding", "Use reflecting padding, or CONCATENATION of slices", SOURCE)
    yield from operands(node, SOURCE, runtime=1)
    pads = node.input(1)
    if pads is None or pads.rank != 2 or pads.shape[0] not in _PAD_ROWS or pads.shape[1] != 2:
        yield Problem(
            "pad-rank", f"paddings {pads}: 3x2 or 4x2 work", "Reshape to rank 4 (or 3) before the padding", SOURCE
        )


def _slice_inputs(node: Node) -> Problems:
    if len(node.inputs) < 3:
        yield Problem("operands", f"SLICE has {len(node.inputs)} inputs", "Export the model again", SOURCE)
    yield from _rank_3_or_4(node)


def _strided(node: Node) -> Problems:
    for field in ("ellipsisMask", "newAxisMask", "shrinkAxisMask"):
        if node.options.get(field):
            yield Problem("slice-mask", f"{field} is set", "Slice with all indices and reshape after", SOURCE)
    yield from _rank_3_or_4(node)


def _rank_3_or_4(node: Node) -> Problems:
    first = node.input(0)
    if first is not None and first.rank not in (3, 4):
        yield Problem("slice-rank", f"{first}", "Reshape to rank 3 or 4 before the slice", SOURCE)


def select_without_ranks(node: Node) -> Problems:
    """Yields what speaks against a selection, apart from the ranks of its choices, which ML Drift does not ask."""
    if len(node.inputs) != 3 or len(node.outputs) != 1 or None in node.inputs:
        yield Problem("operands", f"{node.op} has {len(node.inputs)} inputs, not 3", "Export the model again", SOURCE)
        return
    condition, *choices = (tensor for tensor in node.inputs if tensor is not None)
    result = node.outputs[0].shape
    if condition.dtype not in ("BOOL", "FLOAT16", "FLOAT32"):
        yield Problem("element-type", f"condition {condition}", "Compare into bool", SOURCE)
    for choice in choices:
        if choice.shape and choice.shape != result and (choice.rank > 1 or choice.shape[0] > 1):
            yield Problem(
                "select-broadcast",
                f"{choice} to {list(result)}: a choice must have the shape of the result or be one number",
                "Store the constant in the full shape, or multiply by the condition as float",
                SOURCE,
            )


def _select_classic(node: Node) -> Problems:
    yield from select_without_ranks(node)
    for choice in node.inputs[1:]:
        if choice is not None and not choice.constant and choice.rank == 2:
            yield Problem("select-rank", f"computed choice {choice}", "Reshape to rank 4", SOURCE)


def _cast(node: Node) -> Problems:
    yield from operands(node, SOURCE, runtime=1)
    first = node.input(0)
    pair = ("" if first is None else first.dtype, node.outputs[0].dtype)
    numbers = {"FLOAT32", "INT32"}
    booleans = {("BOOL", "FLOAT16"), ("BOOL", "FLOAT32"), ("FLOAT16", "BOOL"), ("FLOAT32", "BOOL")}
    if pair not in booleans and not set(pair) <= numbers:
        yield Problem(
            "cast-types", f"{pair[0].lower()} to {pair[1].lower()}", "Cast between float32, int32 and bool", SOURCE
        )


def _cumsum(node: Node) -> Problems:
    first, axis = node.input(0), node.input(1)
    if first is None or axis is None or first.dtype not in ("FLOAT16", "FLOAT32") or axis.dtype != "INT32":
        yield Problem("element-type", f"{first}, axis {axis}", "Sum floats over a stored int32 axis", SOURCE)
    elif not axis.constant:
        yield Problem("constant-axes", "the axis is computed", "Give the axis as a constant", SOURCE)


def _one_hot(node: Node) -> Problems:
    indices = node.input(0)
    values = [node.input(2), node.input(3)]
    if indices is None or indices.dtype != "INT32":
        yield Problem("indices-type", f"indices {indices}", "Use int32 indices", SOURCE)
        return
    inner = indices.shape[1:-1] if indices.rank > 3 else indices.shape[:-1]
    if any(size != 1 for size in inner):
        yield Problem("one-hot-shape", f"indices {indices}", "Only batch and the last dimension may exceed 1", SOURCE)
    if any(v is None or not v.constant or v.dtype != "FLOAT32" or v.elements != 1 for v in values):
        yield Problem("one-hot-values", "on and off values", "Store them as single float32 numbers", SOURCE)


def _broadcast_in_dim(node: Node) -> Problems:
    yield from operands(node, SOURCE, runtime=1, constants=1)
    first, axes = node.input(0), node.input(1)
    if first is None or axes is None or axes.rank != 1 or axes.dtype != "INT32" or axes.elements != first.rank:
        yield Problem("indices-rank", f"{first} by axes {axes}", "Give one int32 axis per dimension", SOURCE)


def _clamp(node: Node) -> Problems:
    yield from operands(node, SOURCE, runtime=3, constants=0)


def _dynamic_update(node: Node) -> Problems:
    if len(node.inputs) != 3 or None in node.inputs:
        yield Problem("operands", f"{node.op} has {len(node.inputs)} inputs, not 3", "Export the model again", SOURCE)
        return
    target, update, start = (tensor for tensor in node.inputs if tensor is not None)
    if target.dtype != update.dtype or target.rank != update.rank or start.rank != 1 or start.dtype != "INT32":
        yield Problem("update", f"{target}, {update} at {start}", "Same type and rank, int32 start of rank 1", SOURCE)


_CHECKS: dict[str, Check] = {
    **{name: partial(operands, source=SOURCE, runtime=1, constants=0) for name in (*operators.UNARY, "STABLEHLO_CBRT")},
    **{name: partial(operands, source=SOURCE, runtime=1) for name in _ONE_INPUT},
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(operators.RESIZES, _resize),
    **dict.fromkeys(operators.PADS, _padding),
    **dict.fromkeys(operators.POOLS, _pooling),
    **dict.fromkeys(("CONV_2D", "TRANSPOSE_CONV"), _convolution),
    **dict.fromkeys(operators.SELECTS, _select_classic),
    **dict.fromkeys(operators.BLOCKS, _block),
    "ADD_N": _add_n,
    "BATCH_MATMUL": _batch_matmul,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": _dequantize,
    "EMBEDDING_LOOKUP": _embedding,
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": _gather,
    "SOFTMAX": _softmax,
    "SLICE": _slice_inputs,
    "STRIDED_SLICE": _strided,
    "CAST": _cast,
    "CUMSUM": _cumsum,
    "ONE_HOT": _one_hot,
    "TOPK_V2": partial(operands, source=SOURCE, runtime=1, outputs=2),
    "STABLEHLO_BROADCAST_IN_DIM": _broadcast_in_dim,
    "STABLEHLO_CLAMP": _clamp,
    "DYNAMIC_UPDATE_SLICE": _dynamic_update,
    "DENSIFY": partial(operands, source=SOURCE, runtime=0),
}
