"""The convolutions of a `.tflite` file, as far as they decide by which algorithm a GPU computes them."""

from __future__ import annotations

from collections.abc import Iterator

from sdmobile.device_profiles.runtime_rules.conv_layer import ConvLayer
from sdmobile.formats.tflite.model import Graph, Node


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
