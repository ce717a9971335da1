"""The same graph for one image: what two calls at batch 1 would run instead of one at batch 2."""

from __future__ import annotations

from dataclasses import replace

from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph.graph import FileGraph, Tensor


def half_batch(graph: FileGraph) -> FileGraph:
    """Returns a graph with half as many rows in everything that is computed from an input of an even batch.

    It is for counting, not for running: shapes that operators hold as constants stay as they are.

    Args:
        graph: of a component exported for guidance at batch 2.

    Raises:
        UnsupportedError: no input has an even batch, or an operation mixes images in a way that has no half.
    """
    batched = {name for name in graph.inputs if _even(graph.tensors[name])}
    if not batched:
        raise UnsupportedError("a graph to halve must have an input of an even batch", "none", "Export with batch 2")
    for operation in graph.operations:
        if not batched.intersection(operation.inputs):
            continue
        for name in operation.outputs:
            if not _even(graph.tensors[name]):
                shape = list(graph.tensors[name].shape)
                raise UnsupportedError(
                    "the batch must be the first axis", f"{operation.kind} {operation.name} to {shape}"
                )
            batched.add(name)
    tensors = {name: _half(tensor) if name in batched else tensor for name, tensor in graph.tensors.items()}
    return replace(graph, tensors=tensors)


def _even(tensor: Tensor) -> bool:
    return bool(tensor.shape) and tensor.shape[0] % 2 == 0


def _half(tensor: Tensor) -> Tensor:
    return replace(tensor, shape=(tensor.shape[0] // 2, *tensor.shape[1:]))
