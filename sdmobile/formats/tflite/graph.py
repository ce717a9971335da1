"""Reads what is in a `.tflite` file: operators, composites, ranks, types, the largest intermediate tensor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sdmobile.formats.tflite.model import Tensor
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
