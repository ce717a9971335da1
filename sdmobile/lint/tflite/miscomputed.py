"""What ML Drift takes without complaint and computes wrong: found by running the corpus and comparing with the CPU.

ML Drift lays tensors out as (batch, height, width, channels): [n] becomes (n, 1, 1, 1), [n, c] (n, 1, 1, c) and
[n, w, c] (n, 1, w, c). Several operators read their stored operands, or the last axis, without regard to that.
"""

from __future__ import annotations

import math

from sdmobile.device_profiles.runtime_rules import tflite_operators as operators
from sdmobile.device_profiles.runtime_rules.tflite_operators import words
from sdmobile.formats.tflite.model import Node, Tensor
from sdmobile.lint.tflite.problem import MEASURED, PARSERS, Check, Problem, Problems

_SAFE_GROUP = 4  # with more channels in a group the runtime ends instead of computing something else
_INTEGERS = frozenset(words("INT32 INT16 UINT16 UINT32 INT64 BOOL"))


def check_miscomputed(node: Node) -> Problems:
    """Yields what ML Drift is known to compute wrong in a node that it takes."""
    check = _CHECKS.get(node.op)
    if check is not None:
        yield from check(node)


def _wrong(rule: str, detail: str, fix: str, source: str = MEASURED) -> Problem:
    return Problem(rule, detail, fix, source, "miscomputed")


def _stored_operand(node: Node) -> Problems:
    if len(node.constants) != 1 or len(node.runtime) != 1:
        return
    constant, data, result = node.constants[0], node.runtime[0], node.outputs[0]
    if constant.elements == 1:
        yield from _stored_base(node, constant)
        return
    placed = constant.bhwc if constant.dtype in _INTEGERS else (*(1,) * (4 - constant.rank), *constant.shape)
    fits = all(size in (1, whole) for size, whole in zip(placed, result.bhwc, strict=True))
    if not fits or data.bhwc[0] != result.bhwc[0]:
        yield _wrong(
            "stored-operand-layout",
            f"{constant} is read as {list(placed)} while the result {result} lies as {list(result.bhwc)}",
            "Reshape both to rank 4 with a leading 1 before this operator, or make the stored side an input",
            PARSERS,
        )


def _stored_base(node: Node, constant: Tensor) -> Problems:
    if node.op != "POW" or node.input(0) is not constant:
        return
    base = constant.values()
    if base is None or (float(base.reshape(-1)[0]).is_integer() and float(base.reshape(-1)[0]) != 1):
        yield _wrong(
            "power-of-stored-base",
            f"POW of the stored number {'?' if base is None else float(base.reshape(-1)[0])}: base and exponent swap",
            "Write it as EXP of the exponent times the logarithm of the base",
        )


def _batch_matmul(node: Node) -> Problems:
    left, right = node.input(0), node.input(1)
    if left is None or right is None:
        return
    if right.constant and right.rank == 2:
        if node.options.get("adjX") or node.options.get("adjY"):
            yield _wrong(
                "batch-matmul-adjoint",
                f"{left} by {right}, transposed: the engine ignores that beside a stored matrix",
                "Store the matrix transposed, or with rank 3, or write it as FULLY_CONNECTED",
            )
        return
    if math.prod(left.shape[:-2]) != math.prod(right.shape[:-2]):
        yield _wrong(
            "batch-matmul-broadcast",
            f"{left} by {right}: batches of different number are not broadcast",
            "Repeat the smaller side to the same batch, or store a right side of rank 2",
        )


def _convolution(node: Node) -> Problems:
    image, weights = node.input(0), node.input(1)
    if image is None or weights is None or image.rank != 4 or weights.rank != 4:
        return
    groups = image.shape[3] // max(1, weights.shape[3])
    outputs = weights.shape[0]
    if groups <= 1 or (weights.shape[3] == 1 and image.shape[3] == outputs):
        return
    if weights.shape[3] % 4 or (outputs // groups) % 4:
        crashes = weights.shape[3] > _SAFE_GROUP
        yield Problem(
            "grouped-convolution",
            f"{groups} groups of {weights.shape[3]} to {outputs // groups} channels, which are not multiples of 4"
            + (": the process ends with SIGILL" if crashes else ""),
            "Split the convolution into one per group, or pad the groups to multiples of 4 channels",
            MEASURED,
            "refused" if crashes else "miscomputed",
        )


def _rank_1(node: Node) -> Problems:
    data = node.input(0)
    if data is not None and data.rank == 1 and data.elements > 1:
        yield _wrong(
            "rank-1-channels",
            f"{data} lies as {list(data.bhwc)}, so that {node.op} sees one channel",
            "Reshape to [1, n] before",
        )


def _padding(node: Node) -> Problems:
    data, pads = node.input(0), node.input(1)
    if data is None or pads is None or not data.shape:
        return
    values = pads.values()
    padded = values is None or bool(values[0].any())
    if pads.shape == (3, 2) and (data.shape[0] != 1 or padded):
        yield _wrong(
            "pad-batch",
            f"{data} with 3x2 paddings: the first dimension is taken for the height",
            "Reshape to rank 4 before the padding",
            PARSERS,
        )
    elif data.shape[0] == 1 and padded:
        yield _wrong("pad-batch", f"{data}: a batch of 1 is not padded", "Use CONCATENATION with a constant")


_CHECKS: dict[str, Check] = {
    **dict.fromkeys(("ADD", "MUL", *operators.PAIRS, *operators.COMPARISONS), _stored_operand),
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": _convolution,
    "FULLY_CONNECTED": _rank_1,
    "SOFTMAX": _rank_1,
    **dict.fromkeys(operators.PADS, _padding),
}
