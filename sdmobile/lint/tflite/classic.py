"""Rules of the classic TFLite GPU delegate's own parsers, beyond the shared ones.

Source: LiteRT tflite/delegates/gpu/common/model_builder.cc. Its IsSupported asks little; what its Parse then finds
makes the delegate fail as a whole, so both are rules here. No build of this delegate is in the Python wheels: unlike
the rules of ML Drift, these were read and not run.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from sdmobile.device_profiles.runtime_rules import tflite_operators as operators
from sdmobile.formats.tflite.model import Node, Tensor
from sdmobile.lint.tflite.problem import CLASSIC as SOURCE
from sdmobile.lint.tflite.problem import Check, Problem, Problems

NOT_SHARED = frozenset(("PRELU", "UNPACK", *operators.ACTIVATIONS))
"""Operators whose parser does not ask the shared rules."""


def check_classic(node: Node, consumers: dict[int, list[Node]]) -> Problems:
    """Yields what the classic delegate's parser of a node says against it.

    Args:
        node: the node.
        consumers: for each tensor index the nodes that take it.
    """
    if node.op in operators.COMPARISONS:
        yield from _comparison(node, consumers)
    if node.op == "CAST":
        yield from _cast(node, consumers)
    check = _CHECKS.get(node.op)
    if check is not None:
        yield from check(node)


def _comparison(node: Node, consumers: dict[int, list[Node]]) -> Problems:
    users = consumers.get(node.outputs[0].index, [])
    floats = len(users) == 1 and users[0].outputs and users[0].outputs[0].dtype in ("FLOAT16", "FLOAT32")
    if not floats or users[0].op not in ("CAST", *operators.SELECTS):
        yield Problem(
            "comparison-use",
            f"{node.op} is used by {[user.op for user in users]}",
            "Use the result once, in a CAST to float or a SELECT",
            SOURCE,
        )


def _cast(node: Node, consumers: dict[int, list[Node]]) -> Problems:
    first = node.input(0)
    users = len(consumers.get(node.outputs[0].index, []))
    if first is not None and first.dtype == "BOOL" and node.outputs[0].dtype != "BOOL" and users != 1:
        yield Problem(
            "cast-use",
            f"a CAST from bool with {users} uses; the delegate takes it with one, and not as an output of the model",
            "Use the result once, or compare on the CPU",
            SOURCE,
        )


def _pair(node: Node) -> Problems:
    if len(node.runtime) == 2 and node.inputs[0] is node.inputs[1]:
        yield Problem("same-operand", f"{node.op} of a tensor with itself", "Write the result directly", SOURCE)


def _batch_matmul(node: Node) -> Problems:
    left, right = node.input(0), node.input(1)
    if len(node.runtime) == 2 or left is None or right is None:
        return
    if left.constant:
        yield Problem(
            "batch-matmul-left-constant",
            f"{left} by {right}",
            "Transpose, so that the constant is on the right",
            SOURCE,
        )
    elif right.rank != 2:
        yield Problem("batch-matmul-rank", f"constant {right}", "Store the constant with rank 2", SOURCE)


def _fully_connected(node: Node) -> Problems:
    data, weights = node.input(0), node.input(1)
    if data is None or weights is None or not weights.constant:
        return
    if weights.rank != 2 or data.bhwc[3] != weights.shape[1]:
        yield Problem("channels", f"{data} by {weights}", "Flatten the input to the width of the weights", SOURCE)


def _axes(node: Node, data: int, axes: int) -> Problems:
    tensor, stored = node.input(data), node.input(axes)
    values = None if stored is None else stored.values()
    if tensor is None or values is None:
        return
    for axis in map(int, np.ravel(values)):
        if not 1 <= tensor.rank <= 4 or not -tensor.rank <= axis < tensor.rank:
            yield Problem("axis", f"axis {axis} of {tensor}", "Reshape to at most rank 4", SOURCE)


def _mean(node: Node) -> Problems:
    yield from _axes(node, 0, 1)
    if node.op == "MEAN" and not node.options.get("keepDims") and node.outputs[0].bhwc != _kept(node):
        yield Problem(
            "mean-keep-dims", f"{node.input(0)} to {node.outputs[0]}", "Keep the dimensions and reshape after", SOURCE
        )


def _kept(node: Node) -> tuple[int, ...]:
    """Returns how the result of a MEAN lies: the reduced dimensions are 1, none is left out."""
    data, stored = node.input(0), node.input(1)
    values = None if stored is None else stored.values()
    if data is None or values is None:
        return node.outputs[0].bhwc
    gone = {int(axis) % max(1, data.rank) for axis in np.ravel(values)}
    kept = tuple(1 if axis in gone else size for axis, size in enumerate(data.shape))
    return Tensor(0, "", kept, data.dtype, False).bhwc


def _split(node: Node) -> Problems:
    if len(node.outputs) > 1:
        yield from _axes(node, *((1, 0) if node.op == "SPLIT" else (0, 2)))


def _slice(node: Node) -> Problems:
    data, begin = node.input(0), node.input(1)
    if data is not None and begin is not None and (begin.elements not in (3, 4) or begin.elements > data.rank):
        yield Problem("slice-rank", f"{begin.elements} begins for {data}", "Give 3 or 4 indices", SOURCE)
    for bound in node.inputs[1:]:
        if bound is not None and (not bound.constant or bound.dtype != "INT32"):
            yield Problem("constant-axes", f"bounds {bound}", "Store the bounds as int32", SOURCE)
            return
    stride = node.input(3)
    values = None if stride is None else stride.values()
    if node.op == "STRIDED_SLICE" and values is not None and (values <= 0).any():
        yield Problem("slice-stride", f"strides {values.tolist()}", "Use positive strides", SOURCE)


def _constant(node: Node, position: int, what: str) -> Problems:
    tensor = node.input(position)
    if tensor is None or not tensor.constant or tensor.dtype != "INT32":
        yield Problem("constant-axes", f"{what} {tensor}", f"Store the {what} as int32", SOURCE)


def _transpose(node: Node) -> Problems:
    yield from _constant(node, 1, "order")
    order = node.input(1)
    if order is not None and not 2 <= order.elements <= 4:
        yield Problem("transpose-rank", f"{order.elements} dimensions", "Merge dimensions that stay together", SOURCE)


def _prelu(node: Node) -> Problems:
    data, slopes = node.input(0), node.input(1)
    if data is None or slopes is None:
        return
    linear = slopes.rank > 0 and slopes.elements == slopes.shape[-1]
    fits = slopes.shape[-1] == data.bhwc[3] if linear else slopes.shape[-3:] == data.bhwc[1:]
    if not slopes.constant or not fits:
        yield Problem("prelu-slopes", f"slopes {slopes} for {data}", "One slope per channel, stored", SOURCE)


_CHECKS: dict[str, Check] = {
    **dict.fromkeys(operators.PAIRS, _pair),
    **dict.fromkeys(operators.REDUCTIONS, _mean),
    **dict.fromkeys(operators.SPLITS, _split),
    **dict.fromkeys(operators.SLICES, _slice),
    **dict.fromkeys(operators.PADS, partial(_constant, position=1, what="paddings")),
    "BATCH_MATMUL": _batch_matmul,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE": _transpose,
    "PRELU": _prelu,
}
