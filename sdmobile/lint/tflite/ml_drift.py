"""Rules of ML Drift's own parsers, beyond the shared ones: IsSupported of each in model_builder.cc."""

from __future__ import annotations

from functools import partial

import numpy as np

from sdmobile.device_profiles.runtime_rules import tflite_operators as operators
from sdmobile.device_profiles.runtime_rules.tflite_operators import words
from sdmobile.formats.tflite.model import Node, Tensor, bhwc
from sdmobile.lint.tflite.composites import check_composite
from sdmobile.lint.tflite.problem import MEASURED, PRECHECKS, Check, Problem, Problems, fused_activation, operands
from sdmobile.lint.tflite.problem import PARSERS as SOURCE
from sdmobile.lint.tflite.shared import select_without_ranks

NOT_SHARED = frozenset(
    (*words("ARG_MAX CAST ONE_HOT PRELU UNPACK"), *operators.SLICES, *operators.SELECTS, operators.COMPOSITE)
)
"""Operators whose parser does not ask the shared rules."""

_BINARY = (
    *operators.SUMS_AND_PRODUCTS,
    *operators.PAIRS,
    *operators.COMPARISONS,
    *operators.LOGICAL,
    *operators.SHIFTS,
    "BITWISE_XOR",
)
_READABLE = frozenset(words("FLOAT32 FLOAT16 INT4 INT8 UINT8 INT32"))
_SELF = frozenset(operators.SUMS_AND_PRODUCTS)  # these are replaced by SQUARE and by a product with 2


def check_ml_drift(node: Node) -> Problems:
    """Yields what ML Drift's parser of a node says against it."""
    check = _CHECKS.get(node.op)
    if check is not None:
        yield from check(node)


def _binary(node: Node) -> Problems:
    if len(node.inputs) != 2:
        yield Problem("operands", f"{node.op} has {len(node.inputs)} inputs", "Combine two tensors at a time", SOURCE)
    elif len(node.runtime) == 2:
        yield from _computed_pair(node, *node.runtime)
    else:
        yield from operands(node, SOURCE, runtime=1, constants=1)
        for constant in node.constants:
            yield from _constant_operand(constant)
    yield from fused_activation(node, PRECHECKS)


def _computed_pair(node: Node, first: Tensor, second: Tensor) -> Problems:
    if first is second:
        if node.op not in _SELF:
            yield Problem(
                "same-operand",
                f"{node.op} of a tensor with itself",
                "Write the result directly: zero, one or the tensor itself",
                SOURCE,
            )
    elif first.rank != second.rank and 0 in (first.rank, second.rank):
        yield Problem(
            "scalar-operand", f"{first} and {second}: a computed scalar", "Reshape the scalar to [1]", PRECHECKS
        )


def _constant_operand(constant: Tensor) -> Problems:
    if constant.sparse:
        yield Problem("sparse", f"{constant} is sparse", "Store it densely", SOURCE)
    floats = constant.dtype in ("FLOAT32", "FLOAT16") or (
        constant.quantization is not None and constant.dtype in ("INT8", "UINT8", "INT4")
    )
    if constant.elements == 1 and not floats and constant.dtype != "INT32":
        yield Problem("constant-type", f"{constant}", "Store single numbers as float32 or int32", SOURCE)
    elif constant.rank > 4 and floats and constant.elements != constant.shape[-1]:
        yield Problem("rank", f"{constant} has rank {constant.rank}", "Reshape it to at most rank 4", SOURCE)


def _weights(node: Node, position: int, what: str) -> Problems:
    weights = node.input(position)
    if weights is None or not weights.constant:
        return
    if weights.sparse:
        yield Problem("sparse", f"{what} {weights} are sparse", "Store them densely", PRECHECKS)
    elif weights.dtype not in _READABLE:
        yield Problem("weights-type", f"{what} {weights}", "Store them as float32, float16 or int8", PRECHECKS)


def _bias(node: Node, position: int = 2) -> Problems:
    bias = node.input(position)
    if bias is not None and not bias.constant:
        yield Problem(
            "computed-bias",
            f"the bias {bias} is computed: the process ends with SIGABRT",
            "Leave the bias out, and add it with ADD",
            MEASURED,
        )


def _batch_matmul(node: Node) -> Problems:
    left, right = node.input(0), node.input(1)
    if len(node.runtime) == 2 or left is None or right is None:
        return
    if left.constant:
        yield Problem(
            "batch-matmul-left-constant",
            f"{left} by {right}: the left side is a constant",
            "Transpose the product, so that the constant is on the right, or write it as FULLY_CONNECTED",
            SOURCE,
        )
    elif right.rank not in (2, 3, 4):
        yield Problem("rank", f"constant {right}", "Reshape it to rank 2, 3 or 4", SOURCE)
    yield from _weights(node, 1, "weights")


def _convolution(node: Node) -> Problems:
    image, weights = node.input(0), node.input(1)
    if image is None or weights is None:
        return
    if image.constant:
        yield Problem("constant-input", f"input {image}", "Compute the convolution before the export", SOURCE)
    if weights.dtype in ("INT8", "INT4") and weights.quantization is not None and weights.shape[1:3] == (1, 1):
        yield from _quantized_matrix(weights)
    yield from _weights(node, 1, "weights")
    yield from _bias(node)
    yield from fused_activation(node, PRECHECKS)


def _quantized_matrix(weights: Tensor) -> Problems:
    if weights.dtype not in ("INT8", "INT4", "INT2"):
        yield Problem("weights-type", f"quantized weights {weights}", "Use int8, int4 or int2", PRECHECKS)
    elif weights.rank not in (2, 4) or (weights.rank == 4 and weights.shape[1:3] != (1, 1)):
        yield Problem("weights-rank", f"quantized weights {weights}", "Store them with rank 2", PRECHECKS)


def _depthwise(node: Node) -> Problems:
    if len(node.runtime) not in (1, 2):
        yield Problem("operands", f"{len(node.runtime)} computed inputs", "Store bias and weights", SOURCE)
    yield from _weights(node, 1, "weights")
    yield from _bias(node)


def _transposed_convolution(node: Node) -> Problems:
    yield from _weights(node, 1, "weights")
    yield from _bias(node, 3)


def _fully_connected(node: Node) -> Problems:
    weights = node.input(1)
    if weights is not None and weights.quantization is not None and weights.quantization.kind == "affine":
        yield from _quantized_matrix(weights)
        yield from _hybrid_rank(node, weights)
    yield from _bias(node)
    yield from fused_activation(node, PRECHECKS)


def _hybrid_rank(node: Node, weights: Tensor) -> Problems:
    """Integer weights and float activations, which the runtime quantises, in a product that drops leading axes."""
    first, result = node.input(0), node.outputs[0]
    if not weights.constant or first is None or first.dtype != "FLOAT32" or first.rank == result.rank:
        return
    alone = first.bhwc[0] == 1
    seen = "the engine finds no batch axis" if alone else "values are scaled wrongly"
    yield Problem(
        "hybrid-rank",
        f"{weights.dtype.lower()} weights, and {first} becomes {result}: {seen}",
        "Keep the rank (keep_num_dims) and reshape afterwards; sdmobile's recipes for GPUs do",
        MEASURED,
        "refused" if alone else "miscomputed",
    )


def _dequantize(node: Node) -> Problems:
    stored = node.input(0)
    if stored is None:
        return
    if not stored.constant:
        if stored.quantization is None or stored.quantization.scales > 1:
            yield Problem("scales", f"{stored} without one scale", "Quantize activations per tensor", SOURCE)
        return
    if stored.rank not in (2, 3, 4):
        yield Problem(
            "dequantize-rank", f"constant {stored}", "Store constants of this rank as float16 or float32", SOURCE
        )
    elif _trailing(stored.shape) != stored.bhwc:
        yield Problem(
            "dequantize-layout",
            f"constant {stored} becomes {list(_trailing(stored.shape))} where {list(stored.bhwc)} is used: "
            "the graph is taken and then fails to compile",
            "Store it as float16, or let the operator take quantized weights itself (dynamic range quantization)",
            SOURCE,
        )


def _quantize(node: Node) -> Problems:
    if node.outputs[0].quantization is None:
        yield Problem("scales", f"{node.outputs[0]} has no scale", "Export the model again", SOURCE)


def _embedding(node: Node) -> Problems:
    table = node.input(1)
    if table is None or table.dtype == "FLOAT32":
        return
    if table.quantization is None or table.dtype not in ("INT8", "INT4", "INT2"):
        yield Problem(
            "embedding-type", f"table {table}", "Store the table as float32, or as int8 with scales per row", SOURCE
        )
    else:
        yield from _quantized_matrix(table)


def _axis(node: Node, tensor: Tensor | None, axes: np.ndarray | list[int] | None) -> Problems:
    """Yields a problem where an axis is none of a tensor of rank 1 to 4."""
    if tensor is None:
        return
    for axis in map(int, np.ravel(axes if axes is not None else [])):
        if not 1 <= tensor.rank <= 4 or not -tensor.rank <= axis < tensor.rank:
            yield Problem(
                "axis", f"axis {axis} of {tensor}", "Reshape to at most rank 4 and use an axis of it", PRECHECKS
            )


def _axes_from(node: Node, data: int, axes: int) -> Problems:
    stored = node.input(axes)
    yield from _axis(node, node.input(data), None if stored is None else stored.values())


def _axis_option(node: Node) -> Problems:
    if node.op == "PACK":
        if len(node.inputs) > 1:
            yield from _axis(node, node.outputs[0], [node.options.get("axis", 0)])
    elif len(node.outputs) > 1:
        yield from _axis(node, node.input(0), [node.options.get("axis", 0)])


def _split(node: Node) -> Problems:
    if node.options.get("numSplits", len(node.outputs)) > 1:
        yield from _axes_from(node, *((1, 0) if node.op == "SPLIT" else (0, 2)))


def _argmax(node: Node) -> Problems:
    yield from operands(node, SOURCE, runtime=1, constants=1)
    yield from _axes_from(node, 0, 1)


def _gather(node: Node) -> Problems:
    table = node.input(0)
    if table is not None and table.dtype != node.outputs[0].dtype:
        yield Problem("element-type", f"{table} to {node.outputs[0]}", "Gather without conversion", SOURCE)


def _prelu(node: Node) -> Problems:
    data, slopes = node.input(0), node.input(1)
    if data is None or slopes is None:
        return
    channels = data.bhwc[3]
    linear = slopes.elements == slopes.shape[-1] if slopes.shape else False
    full = slopes.rank == 3 or (slopes.rank == 4 and slopes.shape[0] == 1)
    fits = slopes.shape[-1] == channels if linear else full and slopes.shape[-3:] == data.bhwc[1:]
    if not slopes.constant or not fits:
        yield Problem(
            "prelu-slopes",
            f"slopes {slopes} for {data}: one per channel, or one per element of height, width and channels",
            "Expand the slopes to the shape of the input",
            SOURCE,
        )


def _padding(node: Node) -> Problems:
    pads, value = node.input(1), node.input(2)
    if pads is None or not pads.constant or pads.dtype != "INT32":
        yield Problem("constant-axes", f"paddings {pads}", "Store the paddings as int32", SOURCE)
    if node.op == "PADV2" and value is not None and (not value.constant or value.elements != 1):
        yield Problem("pad-value", f"value {value}", "Store the value as one float32 number", SOURCE)


def _transpose(node: Node) -> Problems:
    order = node.input(1)
    if order is None or not order.constant or order.dtype != "INT32":
        yield Problem("constant-axes", f"the order {order}", "Store the order as int32", SOURCE)
    elif not 2 <= order.elements <= 4:
        yield Problem(
            "transpose-rank", f"{order.elements} dimensions", "Merge dimensions that stay together; 2 to 4 work", SOURCE
        )


def _slice(node: Node) -> Problems:
    data, begin, size = node.input(0), node.input(1), node.input(2)
    if data is None or begin is None or size is None:
        yield Problem("operands", f"SLICE has {len(node.inputs)} inputs", "Export the model again", SOURCE)
        return
    for tensor in (begin, size):
        if not tensor.constant or tensor.dtype != "INT32":
            yield Problem("constant-axes", f"{tensor}", "Store begin and size as int32", SOURCE)
            return
    if data.constant:
        yield Problem("constant-input", f"{data}", "Compute the slice before the export", SOURCE)
    allowed = (3, 4) if data.rank == 4 else (data.rank,)
    if data.rank > 4 or begin.elements not in allowed or begin.elements != size.elements:
        yield Problem(
            "slice-rank",
            f"{begin.elements} begins and {size.elements} sizes for {data}",
            "Give one per dimension",
            SOURCE,
        )


def _strided(node: Node) -> Problems:
    for field in ("ellipsisMask", "newAxisMask", "shrinkAxisMask"):
        if node.options.get(field):
            yield Problem("slice-mask", f"{field} is set", "Slice with all indices and reshape after", SOURCE)
            return
    data, *bounds = node.inputs
    if data is None or len(bounds) != 3 or any(b is None or not b.constant or b.dtype != "INT32" for b in bounds):
        yield Problem("constant-axes", "computed bounds", "Store begin, end and strides as int32", SOURCE)
        return
    values = [bound.values() for bound in bounds if bound is not None]
    if any(value is None for value in values):
        return
    begin, end, stride = (np.ravel(value) for value in values if value is not None)
    if begin.size not in (data.rank, data.rank - 1):
        yield Problem("slice-rank", f"{begin.size} begins for {data}", "Give one index per dimension", SOURCE)
    elif (stride <= 0).any():
        yield Problem("slice-stride", f"strides {stride.tolist()}", "Use positive strides, and REVERSE_V2", SOURCE)
    elif _strided_shape(node, data, begin, end, stride) != node.outputs[0].bhwc:
        yield Problem(
            "slice-shape",
            f"{begin.tolist()} to {end.tolist()} of {data} is not {node.outputs[0]} as ML Drift counts it",
            "Give one index per dimension, at most rank 4",
            SOURCE,
        )


def _strided_shape(
    node: Node, data: Tensor, begin: np.ndarray, end: np.ndarray, stride: np.ndarray
) -> tuple[int, ...] | None:
    """Returns the shape of a slice by ML Drift's arithmetic, in which missing indices stand for the batch."""
    missing = data.rank - begin.size
    sizes = []
    for axis, length in enumerate(data.shape[:4]):
        index = axis - missing
        if index < 0:
            sizes.append(length)
            continue
        bit = 1 << index
        first = 0 if node.options.get("beginMask", 0) & bit else int(begin[index])
        last = length if node.options.get("endMask", 0) & bit else int(end[index])
        first, last = (first + length if first < 0 else first), (last + length if last < 0 else last)
        sizes.append(-(-(last - first) // int(stride[index])))
    return bhwc(tuple(sizes)) if not missing else None


def _one_hot(node: Node) -> Problems:
    indices = node.input(0)
    axis = node.options.get("axis", -1)
    if indices is not None and axis != -1 and (not indices.rank or axis != indices.shape[-1]):
        yield Problem("one-hot-axis", f"axis {axis}", "Use axis -1", SOURCE)
    if indices is not None and indices.rank >= 4 and indices.shape[3] != 1:
        yield Problem("one-hot-shape", f"indices {indices}", "The last of four dimensions must be 1", SOURCE)


def _top_k(node: Node) -> Problems:
    count = node.input(1)
    if count is None or not count.constant or count.elements != 1:
        yield Problem("constant-axes", f"k is {count}", "Store k as one number", SOURCE)


def _dynamic_update(node: Node) -> Problems:
    start = node.input(2)
    if start is not None and start.constant:
        yield Problem("constant-start", "the start is a constant", "Write it as SLICE and CONCATENATION", SOURCE)


def _trailing(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*(1,) * (4 - len(shape)), *shape)


_CHECKS: dict[str, Check] = {
    **dict.fromkeys(
        (*operators.UNARY, *operators.ACTIVATIONS, "CAST", "SOFTMAX"),
        partial(operands, source=SOURCE, runtime=1, constants=0),
    ),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(
        (*operators.REDUCTIONS, *operators.LOGICAL_REDUCTIONS, "REVERSE_V2"),
        partial(_axes_from, data=0, axes=1),
    ),
    **dict.fromkeys(operators.PACKS, _axis_option),
    **dict.fromkeys(operators.SPLITS, _split),
    **dict.fromkeys(operators.PADS, _padding),
    **dict.fromkeys(operators.SELECTS, select_without_ranks),
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed_convolution,
    "FULLY_CONNECTED": _fully_connected,
    "DEQUANTIZE": _dequantize,
    "QUANTIZE": _quantize,
    "EMBEDDING_LOOKUP": _embedding,
    "ARG_MAX": _argmax,
    "GATHER": _gather,
    "PRELU": _prelu,
    "TRANSPOSE": _transpose,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided,
    "ONE_HOT": _one_hot,
    "TOPK_V2": _top_k,
    "DYNAMIC_UPDATE_SLICE": _dynamic_update,
    operators.COMPOSITE: check_composite,
}
