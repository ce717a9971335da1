"""Outputs of a model that ML Drift merges away: it takes the file, and the output holds something else.

Where a value has one reader, the engine may make one kernel of producer and reader, and forgets that the value is an
output of the model as well. The output is then never written, or is another tensor.

    CONV_2D ─▶ a ─▶ MUL(a, c) ─▶ b,  outputs a, b        the product goes into the weights: a is never written
    MUL(x, c) ─▶ a ─▶ CONV_2D ─▶ b,  outputs a, b        likewise
    ADD(x, y) ─▶ a ─▶ SUM ─▶ b,      outputs a, b        the sum goes into the reduction: a is x
    PAD(x) ─▶ a ─▶ CONV_2D ─▶ b,     outputs a, b        the convolution pads by itself: a is never written

Source: google-ai-edge/LiteRT issue 8599, and the corpus (tests/lint/corpus/outputs.py), which found each form.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from sdmobile.device_profiles.runtime_rules import tflite_operators as operators
from sdmobile.device_profiles.runtime_rules.tflite_operators import REDUCTIONS
from sdmobile.formats.tflite.model import Node, Tensor
from sdmobile.lint.tflite.problem import MEASURED, Problem

_WITH_WEIGHTS = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"))
_PER_CHANNEL = frozenset(("ADD", "MUL"))
_PADDED = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D"))
_LOWEST = -1e9
_NEVER = "whatever lay there"


def lost_outputs(nodes: Sequence[Node], outputs: Collection[int]) -> Iterator[tuple[Node, Problem]]:
    """Yields each node whose result is an output of the model that ML Drift merges away, with what to say of it.

    Args:
        nodes: of the graph, as the runtime sees them.
        outputs: indices of the model's outputs.
    """
    graph = _Readers(nodes)
    held = _into_weights(nodes, graph) | {id(node): one for node in nodes if (one := _alone(node, graph.only(node)))}
    for node in nodes:
        reader = graph.only(node)
        if reader is not None and node.outputs[0].index in outputs and id(node) in held:
            yield node, _problem(node.outputs[0], reader, held[id(node)])


class _Readers:
    """Who reads what."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._by_tensor: dict[int, list[Node]] = {}
        for node in nodes:
            for index in {tensor.index for tensor in node.inputs if tensor is not None}:
                self._by_tensor.setdefault(index, []).append(node)

    def only(self, node: Node) -> Node | None:
        """Returns the one reader of a node's one result."""
        found = self._by_tensor.get(node.outputs[0].index, []) if len(node.outputs) == 1 else []
        return found[0] if len(found) == 1 else None


def _into_weights(nodes: Sequence[Node], readers: _Readers) -> dict[int, str]:
    """Returns what the results of merged nodes hold, by node.

    What follows a product goes into its weights, products first and then sums; then what comes before a product and
    went into none, sums first and then products, which padding does not keep from it.
    """
    held: dict[int, str] = {}
    followed: dict[int, str] = {}
    for node in nodes:
        reader, last = readers.only(node), followed.get(id(node))
        merges = _has_weights(node) or last is not None
        if reader is None or not merges or node.activation() != "NONE" or _per_channel(reader) is None:
            continue
        if (last, reader.op) != ("ADD", "MUL"):
            followed[id(reader)] = reader.op
            held[id(node)] = _NEVER
    products: dict[int, tuple[Node, str]] = {id(node): (node, "") for node in nodes if _has_weights(node)}
    for node in reversed(nodes):
        reader = readers.only(node)
        product, last = (None, "") if reader is None else products.get(id(reader), (None, ""))
        if product is None or id(node) in followed or node.activation() != "NONE":
            continue
        sum_fits = node.op == "ADD" and last in ("", "ADD") and not _pads(product)
        if _per_channel(node) is not None and (node.op == "MUL" or sum_fits):
            products[id(node)] = product, node.op
            held[id(node)] = _NEVER
        elif last == "" and reader is product and _pads_image(node) and product.op in _PADDED:
            products[id(node)] = product, "PAD"
    return held


def _alone(node: Node, reader: Node | None) -> str | None:
    """Returns what the result of a node holds that is merged with its reader for another reason than weights."""
    if reader is None:
        return None
    if node.op == "ADD" and reader.op in REDUCTIONS and node.activation() == "NONE" and _two_alike(node):
        return "its first operand"
    return _NEVER if merges_padding(node, reader) else None


def merges_padding(node: Node, reader: Node) -> bool:
    """Returns whether the engine lets a node's one reader do its padding."""
    if reader.op == "ADD":
        return _pads_channels(node)
    return _pads_image(node) and (reader.op in operators.POOLS or (reader.op in _PADDED and _has_weights(reader)))


def _two_alike(node: Node) -> bool:
    """Returns whether a node takes two different computed tensors of one shape."""
    return (
        len(node.runtime) == 2
        and node.runtime[0] is not node.runtime[1]
        and node.runtime[0].shape == node.runtime[1].shape
    )


def _pads_image(node: Node) -> bool:
    """Returns whether a node pads height and width alone, as an operator with a window does by itself."""
    sizes = _paddings(node)
    return sizes is not None and not sizes[0].any() and not sizes[3].any()


def _pads_channels(node: Node) -> bool:
    """Returns whether a node pads behind the channels alone."""
    sizes = _paddings(node)
    return sizes is not None and not sizes[:3].any() and not sizes[3, 0] and bool(sizes[3, 1])


def _paddings(node: Node) -> np.ndarray | None:
    pads = node.input(1) if node.op in ("PAD", "PADV2") else None
    sizes = None if pads is None else pads.values()
    return sizes if sizes is not None and sizes.shape == (4, 2) else None


def wrong_paddings(nodes: Sequence[Node]) -> Iterator[tuple[Node, Problem]]:
    """Yields each padding that ML Drift leaves to its one reader, which pads with something else.

    A convolution pads with zeros, the largest of a window with nothing, and a mean leaves out of its count what is
    padded.

    Args:
        nodes: of the graph, as the runtime sees them.
    """
    readers = _Readers(nodes)
    for node in nodes:
        reader, sizes = readers.only(node), _paddings(node)
        if reader is None or sizes is None or not sizes.any() or not merges_padding(node, reader):
            continue
        stored = node.input(2)
        value = 0.0 if stored is None else stored.values()
        number = float(np.ravel(value)[0]) if value is not None and np.size(value) else 0.0
        right = {"AVERAGE_POOL_2D": False, "MAX_POOL_2D": number <= _LOWEST}.get(reader.op, number == 0)
        if not right:
            yield (
                node,
                Problem(
                    "merged-padding",
                    f"{node.op} with {number:g} is left to {reader.op}, which pads with something else",
                    "Let another operator read what is padded as well, or pad with CONCATENATION",
                    MEASURED,
                    "miscomputed",
                ),
            )


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
