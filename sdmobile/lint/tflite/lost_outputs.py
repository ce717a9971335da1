"""Outputs of a model that ML Drift merges away: it takes the file, and the output holds something else.

Where a value has one reader, the engine may make one kernel of producer and reader, and forgets that the value is an
output of the model as well. The output is then never written, or is another tensor.

    CONV_2D ─▶ a ─▶ MUL(a, c) ─▶ b,  outputs a, b        the product goes into the weights: a is never written
    MUL(x, c) ─▶ a ─▶ CONV_2D ─▶ b,  outputs a, b        likewise
    ADD(x, y) ─▶ a ─▶ SUM ─▶ b,      outputs a, b        the sum goes into the reduction: a is x

Source: google-ai-edge/LiteRT issue 8599, and the corpus (tests/lint/corpus/outputs.py), which found each form.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from sdmobile.device_profiles.runtime_rules.tflite_operators import REDUCTIONS
from sdmobile.formats.tflite.model import Node, Tensor
from sdmobile.lint.tflite.problem import MEASURED, Problem

_WITH_WEIGHTS = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"))
_PER_CHANNEL = frozenset(("ADD", "MUL"))


def lost_outputs(nodes: Sequence[Node], outputs: Collection[int]) -> Iterator[tuple[Node, Problem]]:
    """Yields each node whose result is an output of the model that ML Drift merges away, with what to say of it.

    Args:
        nodes: of the graph, as the runtime sees them.
        outputs: indices of the model's outputs.
    """
    readers: dict[int, list[Node]] = {}
    for node in nodes:
        for index in {tensor.index for tensor in node.inputs if tensor is not None}:
            readers.setdefault(index, []).append(node)
    for node in nodes:
        for made in node.outputs:
            following = readers.get(made.index, [])
            if made.index in outputs and len(following) == 1 and (held := _held(node, following[0])):
                yield node, _problem(made, following[0], held)


def _held(node: Node, reader: Node) -> str | None:
    """Returns what the output holds where the two are merged, None where they are not."""
    if node.op == "ADD" and len(node.runtime) == 2 and reader.op in REDUCTIONS:
        return "its first operand"
    into_weights = _has_weights(node) and _per_channel(reader) is not None
    constant = _per_channel(node)
    if constant is not None and _has_weights(reader):
        into_weights = node.op == "MUL" or not _pads(reader)
    return "whatever lay there" if into_weights else None


def _has_weights(node: Node) -> bool:
    weights = node.input(1)
    return node.op in _WITH_WEIGHTS and weights is not None and weights.constant


def _per_channel(node: Node) -> Tensor | None:
    """Returns the stored number, or row of numbers, that a node adds or multiplies by."""
    if node.op not in _PER_CHANNEL or len(node.constants) != 1 or len(node.runtime) != 1:
        return None
    constant = node.constants[0]
    return constant if constant.elements in (1, constant.bhwc[3] if constant.rank != 1 else constant.elements) else None


def _pads(node: Node) -> bool:
    """Returns whether a product sees zeros beyond the edge, where a sum before it would have to be added, too."""
    weights = node.input(1)
    return node.op != "FULLY_CONNECTED" and (weights is None or weights.shape[1:3] != (1, 1))


def _problem(made: Tensor, reader: Node, held: str) -> Problem:
    return Problem(
        "lost-output",
        f"the output {made} is read by one {reader.op}, which the engine merges with its producer: it holds {held}",
        "Let another operator read it as well, or make a copy of it the output",
        f"google-ai-edge/LiteRT#8599; {MEASURED}",
        "miscomputed",
    )
