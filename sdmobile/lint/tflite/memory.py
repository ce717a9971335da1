"""Whether what a graph keeps on a GPU fits its buffers, and the file its limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sdmobile.device_profiles.runtime_rules.tflite_operators import TABLES, GpuRuntime
from sdmobile.device_profiles.runtime_rules.winograd import LITERT_DELEGATE, ML_DRIFT
from sdmobile.formats.tflite.gpu_bytes import gpu_bytes
from sdmobile.formats.tflite.graph import convolutions
from sdmobile.formats.tflite.model import Graph, Node, Tensor
from sdmobile.formats.tflite.names import module_of
from sdmobile.lint.limits import Limits
from sdmobile.lint.report import Finding
from sdmobile.lint.tflite.problem import MEASURED

_LOOKED_UP = "GATHER"
_READ_AS_FLOATS = frozenset({"INT8", "UINT8", "INT4", "INT2"})  # by AddConstInput, for GATHER
_FIX = "Compute it in blocks (attention: the rewrite rule for blocked attention), at a smaller size, or in chunks"
_FIX_WINOGRAD = (
    "Split the convolution's channels, or export for a batch or size at which the runtime computes it directly"
)
_WINOGRAD = {"ml-drift": ML_DRIFT, "tflite-gpu": LITERT_DELEGATE}


@dataclass(frozen=True)
class _Buffer:
    """Memory that an operator needs as one buffer: a tensor of the file, or weights as the engine transforms them."""

    node: Node
    what: str
    size: int
    fix: str = _FIX


def tensor_bytes(tensor: Tensor, float_bytes: int) -> int:
    """Returns the bytes of a tensor of the file on the GPU, at so many bytes per float."""
    quantized = tensor.quantization is not None and tensor.quantization.kind == "affine"
    return gpu_bytes(tensor.shape, tensor.dtype, float_bytes, constant=tensor.constant, quantized=quantized)


def memory_findings(graph: Graph, runtime: GpuRuntime, limits: Limits) -> Iterator[Finding]:
    """Yields what is too large for one buffer, largest first, and a file that is too large."""
    if limits.file_bytes is not None and graph.file_bytes > limits.file_bytes:
        yield Finding(
            "refused",
            "file-size",
            f"{graph.file_bytes} bytes; {limits.file_bytes} at most",
            "Store float16 weights, or export in chunks",
            limits.source or "device limits",
        )
    yield from texture_findings(graph, limits)
    if limits.buffer_bytes is None:
        return
    buffers = (*_tensors(graph, limits.float_bytes), *_transformed_weights(graph, runtime, limits))
    for buffer in sorted(buffers, key=lambda item: -item.size):
        if buffer.size > limits.buffer_bytes:
            yield _too_large(buffer, limits)


def texture_findings(graph: Graph, limits: Limits) -> Iterator[Finding]:
    """Yields the convolutions whose weights, transformed for Winograd's method, exceed a texture of WebGPU."""
    if limits.texture_rows is None:
        return
    for node, layer in convolutions(graph):
        rows = ML_DRIFT.texture_rows(layer.channels[0])
        if ML_DRIFT.objection(layer, limits.gpu) is None and rows > limits.texture_rows:
            yield Finding(
                "refused",
                "texture-rows",
                f"{node.inputs[1]} transformed for Winograd's method is a texture of {rows} rows in a browser; "
                f"{limits.texture_rows} at most: the GPU refuses the run",
                "Export with --device phone-browser, which cuts the convolution along its input channels",
                "own check with LiteRT.js (docs/gpu-check.md); limit: WebGPU specification, maxTextureDimension2D",
                op=node.op,
                node=str(node.index),
                version=node.version,
                shapes={"outputs": [str(item) for item in node.outputs]},
                module=module_of(node),
            )


def _tensors(graph: Graph, float_bytes: int) -> Iterator[_Buffer]:
    """Yields the computed tensors and the tables that are read whole, each with the first node that has it."""
    seen: set[int] = set()
    for node in graph.nodes:
        tables = node.constants if node.op in TABLES else ()  # a stored table is one buffer
        for tensor in (*node.outputs, *node.runtime, *tables):
            if tensor.rank <= 4 and tensor.index not in seen:
                seen.add(tensor.index)
                yield _Buffer(node, str(tensor), _held_bytes(node, tensor, float_bytes))


def _held_bytes(node: Node, tensor: Tensor, float_bytes: int) -> int:
    """Returns the bytes of a node's tensor; GATHER's table is laid out like a computed one, its integers as floats."""
    if node.op == _LOOKED_UP and tensor.constant:
        dtype = "FLOAT32" if tensor.dtype in _READ_AS_FLOATS else tensor.dtype
        return gpu_bytes(tensor.shape, dtype, float_bytes)
    return tensor_bytes(tensor, float_bytes)


def _transformed_weights(graph: Graph, runtime: GpuRuntime, limits: Limits) -> Iterator[_Buffer]:
    """Yields the weights of convolutions that the runtime computes by Winograd's method in a buffer."""
    for node, layer in convolutions(graph):
        shape = _WINOGRAD[runtime].weight_buffer(layer, limits.gpu)
        if shape is not None:
            size = gpu_bytes(shape, "FLOAT32", limits.float_bytes)
            yield _Buffer(node, f"{node.inputs[1]} transformed for Winograd's method", size, _FIX_WINOGRAD)


def _too_large(buffer: _Buffer, limits: Limits) -> Finding:
    node = buffer.node
    return Finding(
        "miscomputed",
        "buffer-size",
        f"{buffer.what} takes {buffer.size} bytes on the GPU at {limits.float_bytes} bytes per "
        f"float; {limits.buffer_bytes} at most: running fails, or gives wrong numbers without an error",
        buffer.fix,
        f"{MEASURED}; limit: {limits.source or 'given'}",
        op=node.op,
        node=str(node.index),
        version=node.version,
        shapes={"outputs": [str(item) for item in node.outputs]},
        module=module_of(node),
    )
