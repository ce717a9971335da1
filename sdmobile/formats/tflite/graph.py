"""Reads what is in a `.tflite` file: operators, composites, ranks, types, the largest intermediate tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sdmobile.device_profiles.runtime_rules.conv_layer import ConvLayer
from sdmobile.formats.tflite.model import Graph, Node, Tensor
from sdmobile.formats.tflite.reader import read_model

_ELEMENT_BYTES = {"FLOAT32": 4, "INT32": 4, "UINT32": 4, "FLOAT16": 2, "INT16": 2, "INT64": 8, "FLOAT64": 8}


@dataclass(frozen=True)
class FileFacts:
    """What the graphs of a `.tflite` file's signatures consist of.

    The decompositions of composites are subgraphs of their own and not counted: a runtime that knows the composite
    never looks at them.

    Args:
        operators: number of each operator; a composite counts under its own name, such as `odml.group_norm`.
        max_rank: highest rank of a tensor.
        tensor_types: number of tensors of each element type.
        largest_intermediate: bytes of the largest tensor that an operator writes, in the file's element types.
        decomposed: operators of all decompositions, for runtimes that do not know the composites.
    """

    operators: dict[str, int]
    max_rank: int
    tensor_types: dict[str, int]
    largest_intermediate: int = 0
    decomposed: int = 0


def read_facts(path: Path) -> FileFacts:
    """Returns what the file consists of; the weights are not read.

    Raises:
        FormatError: the file is missing, is no `.tflite` file, or is truncated.
    """
    graphs = read_model(path).graphs
    composites = [node.composite for graph in graphs for node in graph.nodes if node.composite is not None]
    inner = {composite.decomposition for composite in composites}
    outer = [graph for index, graph in enumerate(graphs) if index not in inner]
    nodes = [node for graph in outer for node in graph.nodes]
    tensors = [tensor for graph in outer for tensor in graph.tensors]
    return FileFacts(
        operators=dict(Counter(node.op if node.composite is None else node.composite.name for node in nodes)),
        max_rank=max((tensor.rank for tensor in tensors), default=0),
        tensor_types=dict(Counter(tensor.dtype for tensor in tensors)),
        largest_intermediate=max((_bytes(tensor) for node in nodes for tensor in node.outputs), default=0),
        decomposed=sum(len(graph.nodes) for index, graph in enumerate(graphs) if index in inner),
    )


def _bytes(tensor: Tensor) -> int:
    """Returns the size of a tensor of static shape."""
    return tensor.elements * _ELEMENT_BYTES.get(tensor.dtype, 1)


def convolutions(graph: Graph) -> Iterator[tuple[Node, ConvLayer]]:
    """Yields convolutions with stored weights; a DEQUANTIZE of them counts as stored, since runtimes look through it.

    Those that lack an input, or whose weights have not four axes, are passed over: no runtime takes them.
    """
    stored = {tensor.index for tensor in graph.tensors if tensor.constant}
    stored |= {node.outputs[0].index for node in graph.nodes if node.op == "DEQUANTIZE" and len(node.constants) == 1}
    for node in graph.nodes:
        weights = node.input(1) if node.op == "CONV_2D" else None
        if weights is not None and weights.rank == 4 and weights.index in stored and node.input(0) is not None:
            yield node, _layer(node)


def _layer(node: Node) -> ConvLayer:
    image, weights = node.inputs[0], node.inputs[1]
    assert image is not None
    assert weights is not None
    batch, height, width, _ = node.outputs[0].bhwc
    out_channels, rows, columns, group_channels = weights.shape
    channels = image.bhwc[3]
    return ConvLayer(
        batch=batch,
        channels=(channels, out_channels),
        size=(height, width),
        kernel=(rows, columns),
        stride=(node.options.get("strideH", 1), node.options.get("strideW", 1)),
        dilation=(node.options.get("dilationHFactor", 1), node.options.get("dilationWFactor", 1)),
        groups=max(1, channels // max(1, group_channels)),
    )
