"""Whether the tensors of a graph fit the buffers of a GPU, and the file its limit."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sdmobile.formats.tflite.model import Graph, Node, Tensor
from sdmobile.formats.tflite.names import module_of
from sdmobile.lint.limits import Limits
from sdmobile.lint.report import Finding
from sdmobile.lint.tflite.operators import Runtime
from sdmobile.lint.tflite.problem import MEASURED

_CHANNELS = 4  # a GPU tensor holds its channels in groups of four
_FLOATS = frozenset({"FLOAT32", "FLOAT16", "BFLOAT16"})
_READ_WHOLE = frozenset({"EMBEDDING_LOOKUP", "GATHER"})  # their stored table is one buffer


def gpu_bytes(tensor: Tensor, float_bytes: int) -> int:
    """Returns the bytes of a tensor on the GPU: batch · height · width · ⌈channels / 4⌉ · 4 elements."""
    batch, height, width, channels = tensor.bhwc
    size = float_bytes if tensor.dtype in _FLOATS else 4
    return batch * height * width * math.ceil(channels / _CHANNELS) * _CHANNELS * size


def memory_findings(graph: Graph, runtime: Runtime, limits: Limits) -> Iterator[Finding]:
    """Yields the tensors that are too large for one buffer, largest first, and a file that is too large."""
    if limits.file_bytes is not None and graph.file_bytes > limits.file_bytes:
        yield Finding(
            "refused",
            "file-size",
            f"{graph.file_bytes} bytes; {limits.file_bytes} at most",
            "Store float16 weights, or export in chunks",
            limits.source or "device limits",
        )
    if limits.buffer_bytes is None:
        return
    found: dict[int, tuple[Node, Tensor]] = {}
    for node in graph.nodes:
        tables = node.constants if node.op in _READ_WHOLE else ()
        for tensor in (*node.outputs, *node.runtime, *tables):
            if tensor.rank <= 4 and gpu_bytes(tensor, limits.float_bytes) > limits.buffer_bytes:
                found.setdefault(tensor.index, (node, tensor))
    for node, tensor in sorted(found.values(), key=lambda pair: -gpu_bytes(pair[1], limits.float_bytes)):
        yield _too_large(node, tensor, limits)


def _too_large(node: Node, tensor: Tensor, limits: Limits) -> Finding:
    return Finding(
        "miscomputed",
        "buffer-size",
        f"{tensor} takes {gpu_bytes(tensor, limits.float_bytes)} bytes on the GPU at {limits.float_bytes} bytes per "
        f"float; {limits.buffer_bytes} at most: running fails, or gives wrong numbers without an error",
        "Compute it in blocks (attention: the rewrite rule for blocked attention), at a smaller size, or in chunks",
        f"{MEASURED}; limit: {limits.source or 'given'}",
        op=node.op,
        node=str(node.index),
        version=node.version,
        shapes={"outputs": [str(item) for item in node.outputs]},
        module=module_of(node),
    )
