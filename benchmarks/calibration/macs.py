"""Multiply-accumulates of a TFLite graph as its operators define them, to compare a graph with a publication."""

from __future__ import annotations

import math

from sdmobile.formats.graph import FileGraph, Operation


def operator_macs(graph: FileGraph, operation: Operation) -> int:
    """Returns the multiply-accumulates of one operation; 0 for what is no product of matrices or convolution."""
    output = graph.tensors[operation.outputs[0]]
    shapes = [graph.tensors[name].shape for name in operation.inputs]
    if operation.kind == "conv_2d":  # weights (outputs, height, width, inputs of a group)
        return output.elements * math.prod(shapes[1][1:])
    if operation.kind == "depthwise_conv_2d":  # weights (1, height, width, outputs)
        return output.elements * math.prod(shapes[1][1:3])
    if operation.kind == "transpose_conv":  # inputs: shape, weights (outputs, height, width, inputs), activations
        return math.prod(shapes[2]) * shapes[1][0] * math.prod(shapes[1][1:3])
    if operation.kind == "fully_connected":
        return output.elements * shapes[1][-1]
    if operation.kind == "batch_matmul":
        inner = shapes[0][-2] if operation.attributes.get("adjX") else shapes[0][-1]
        return output.elements * inner
    if operation.kind == "odml.scaled_dot_product_attention":  # (batch, tokens, heads, channels)
        query, key = shapes[0], shapes[1]
        return math.prod(query) * key[1] + output.elements * key[1]
    return 0


def graph_macs(graph: FileGraph) -> int:
    """Returns the multiply-accumulates of a graph."""
    return sum(operator_macs(graph, operation) for operation in graph.operations)
