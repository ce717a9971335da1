"""Convolutions and matrix products of Google's GPU engines: direct, by Winograd's method, with computed weights."""

from __future__ import annotations

import math

from sdmobile.device_profiles.runtime_rules.conv_layer import ConvLayer
from sdmobile.device_profiles.runtime_rules.kernel import Category
from sdmobile.formats.graph.graph import Operation, Tensor
from sdmobile.formats.tflite.gpu_bytes import padded
from sdmobile.prediction.kernels.conv_generic import Work, convolution_work, depthwise_work, one_position_work
from sdmobile.prediction.kernels.shared_lowering import Lowering
from sdmobile.prediction.kernels.shared_nodes import Node

_TILE, _TAPS = 4, 36  # F(4×4, 3×3): 4×4 outputs from 6×6 products


def convolution(low: Lowering, index: int, operation: Operation) -> None:
    """CONV_2D: three kernels by Winograd's method where the engine's rule takes it, else one."""
    weights = low.tensor(operation.inputs[1])
    if not weights.constant:
        _computed_weights(low, index, operation, weights)
        return
    layer = _layer(low, operation, weights)
    if layer.groups == layer.channels[0] == layer.channels[1] > 1:
        depthwise(low, index, operation)
        return
    objection = "never" if low.winograd is None else low.winograd.objection(layer, low.gpu)
    if objection is None:
        _winograd(low, index, operation, layer)
        return
    category: Category = "matmul" if layer.kernel == (1, 1) and layer.groups == 1 else "conv"
    if layer.groups > 1 and any(size // layer.groups % 4 for size in layer.channels):
        _split_groups(low, index, operation, layer, weights)
        return
    shape = low.draft.shape(operation.outputs[0])
    group = layer.channels[1] // layer.groups // 4 if layer.groups > 1 else 0
    work = convolution_work(low.gpu, shape, _steps(weights), group=group, wave=low.wave)
    note = "" if layer.kernel == (1, 1) else objection
    _direct(low, index, operation, category, weights, layer.macs, note, work)


def _split_groups(low: Lowering, index: int, operation: Operation, layer: ConvLayer, weights: Tensor) -> None:
    """Adds a split, a convolution per group, and a join: groups that are no multiple of four channels.

    ResolveGroupedConvolution in the engines' model builder does so.
    """
    batch, height, width, _ = low.draft.shape(operation.outputs[0])
    image = low.draft.shape(operation.inputs[0])
    per_in, per_out = (channels // layer.groups for channels in layer.channels)
    parts = [low.draft.fresh((*image[:3], per_in)) for _ in range(layer.groups)]
    results = [low.draft.fresh((batch, height, width, per_out)) for _ in range(layer.groups)]
    note = f"one of {layer.groups} groups of {per_in} channels: the engine has no kernel for all"
    low.add(Node("copy", operation.name, (index,), [operation.inputs[0]], parts, note=f"split, {note}"))
    work = convolution_work(low.gpu, (batch, height, width, per_out), _steps(weights), wave=low.wave)
    macs, filled = layer.macs // layer.groups, padded(per_in) * padded(per_out) / (per_in * per_out)
    size = round(weights.elements / layer.groups * filled) * low.draft.element_bytes
    for part, result in zip(parts, results, strict=True):
        node = Node("conv", operation.name, (index,), [part], [result], round(macs * filled), macs, size, note=note)
        node.threads, node.fetches = work.threads, work.fetches
        low.add(node)
    low.add(Node("copy", operation.name, (index,), results, list(operation.outputs), note=f"join, {note}"))


def _layer(low: Lowering, operation: Operation, weights: Tensor) -> ConvLayer:
    batch, height, width, out_channels = low.draft.shape(operation.outputs[0])
    channels = low.draft.shape(operation.inputs[0])[3]
    options = operation.attributes
    return ConvLayer(
        batch=batch,
        channels=(channels, out_channels),
        size=(height, width),
        kernel=(weights.shape[1], weights.shape[2]),
        stride=(options.get("strideH", 1), options.get("strideW", 1)),
        dilation=(options.get("dilationHFactor", 1), options.get("dilationWFactor", 1)),
        groups=max(1, channels // weights.shape[3]),
    )


def _steps(weights: Tensor) -> int:
    """Returns taps times slices of input channels of weights (O, ..., I)."""
    channels = weights.shape[-1]
    return weights.elements // max(1, weights.shape[0] * channels) * (padded(channels) // 4)


def _direct(
    low: Lowering,
    index: int,
    operation: Operation,
    category: Category,
    weights: Tensor,
    macs: int,
    note: str = "",
    work: Work | None = None,
) -> Node:
    """Adds one kernel; input and output channels are computed in fours."""
    out_channels, in_channels = weights.shape[0], weights.shape[-1]
    filled = padded(out_channels) * padded(in_channels) / (out_channels * in_channels)
    return low.add(
        Node(
            category,
            operation.name,
            (index,),
            [operation.inputs[0]],
            list(operation.outputs),
            macs=round(macs * filled),
            operator_macs=macs,
            weight_bytes=low.weight_bytes(weights) + low.bias_bytes(operation),
            note=note,
            threads=work.threads if work else 0,
            fetches=work.fetches if work else 0,
        )
    )


def _winograd(low: Lowering, index: int, operation: Operation, layer: ConvLayer) -> None:
    """Adds winograd_4x4_to_36, the product per tap, winograd_36_to_4x4 (WinogradFromNode and WinoConvolution)."""
    tiles = layer.tiles(_TILE)
    channels, out_channels = layer.channels
    note = f"F(4x4): {layer.batch * tiles} tiles, {channels} to {out_channels} channels"
    taps = low.draft.fresh((layer.batch, _TAPS, tiles, channels))
    products = low.draft.fresh((layer.batch, _TAPS, tiles, out_channels))
    size = _TAPS * padded(channels) * padded(out_channels)
    work = convolution_work(low.gpu, low.draft.shape(products), padded(channels) // 4, flat=True, wave=low.wave)
    low.add(Node("winograd", operation.name, (index,), [operation.inputs[0]], [taps], note=f"4x4 to 36, {note}"))
    low.add(
        Node(
            "winograd",
            operation.name,
            (index,),
            [taps],
            [products],
            macs=layer.batch * tiles * size,
            operator_macs=layer.macs,
            weight_bytes=size * low.draft.element_bytes,
            note=note,
            threads=work.threads,
            fetches=work.fetches,
        )
    )
    back = Node("winograd", operation.name, (index,), [products], list(operation.outputs), note=f"36 to 4x4, {note}")
    back.weight_bytes = low.bias_bytes(operation)
    low.add(back)


def _computed_weights(low: Lowering, index: int, operation: Operation, weights: Tensor) -> None:
    """Adds a conversion of the weights' layout and a convolution (AddDynamicConv)."""
    macs = math.prod(low.draft.shape(operation.outputs[0])) * math.prod(weights.shape[1:])
    product(low, index, operation, operation.inputs[0], operation.inputs[1], operation.outputs[0], macs)


def product(low: Lowering, index: int, operation: Operation, left: str, right: str, result: str, macs: int) -> Node:
    """Adds a product of two computed values: the right one is converted to the layout of weights, then convolved."""
    converted = low.draft.fresh(low.draft.shape(right))
    low.add(Node("reorder", operation.name, (index,), [right], [converted], note="to the layout of weights"))
    shape = low.draft.shape(result)
    inner = macs // max(1, math.prod(shape))
    work = convolution_work(low.gpu, shape, padded(inner) // 4, flat=True, wave=low.wave)
    node = Node("matmul", operation.name, (index,), [left, converted], [result], macs, macs)
    node.note, node.threads, node.fetches = "matrix product as conv", work.threads, work.fetches
    return low.add(node)


def depthwise(low: Lowering, index: int, operation: Operation) -> None:
    """DEPTHWISE_CONV_2D: one kernel, a multiply-accumulate per tap and output."""
    weights = low.tensor(operation.inputs[1])
    batch, height, width, channels = low.draft.shape(operation.outputs[0])
    taps = weights.shape[1] * weights.shape[2]
    macs = batch * height * width * taps
    image = low.draft.shape(operation.inputs[0])
    options = operation.attributes
    strides = (options.get("strideH", 1), options.get("strideW", 1))
    dilations = (options.get("dilationHFactor", 1), options.get("dilationWFactor", 1))
    result = (batch, height, width, channels)
    three = weights.shape[1:3] == (3, 3) and strides == dilations == (1, 1) and image == result
    work = depthwise_work(low.gpu, result, taps, three=three)
    low.add(
        Node(
            "depthwise",
            operation.name,
            (index,),
            [operation.inputs[0]],
            list(operation.outputs),
            macs=macs * padded(channels),
            operator_macs=macs * channels,
            weight_bytes=taps * padded(channels) * low.draft.element_bytes + low.bias_bytes(operation),
            note=f"{weights.shape[1]}x{weights.shape[2]}",
            threads=work.threads,
            fetches=work.fetches,
        )
    )


def transposed(low: Lowering, index: int, operation: Operation) -> None:
    """TRANSPOSE_CONV: one kernel; every input element meets every tap."""
    _, kernel, image, *_ = operation.inputs  # the first is the shape of the result
    weights = low.tensor(kernel)
    batch, height, width, _ = low.draft.shape(image)
    macs = batch * height * width * weights.elements
    node = _direct(low, index, operation, "conv", weights, macs)
    node.inputs = [low.draft.resolve(image)]


def fully_connected(low: Lowering, index: int, operation: Operation) -> None:
    """FULLY_CONNECTED: the same kernel as a 1×1 convolution except at one position."""
    weights = low.tensor(operation.inputs[1])
    rows = math.prod(low.draft.shape(operation.outputs[0])[:3])
    if not weights.constant:
        product(
            low,
            index,
            operation,
            operation.inputs[0],
            operation.inputs[1],
            operation.outputs[0],
            rows * weights.elements,
        )
        return
    shape = low.draft.shape(operation.outputs[0])
    work = (
        one_position_work(low.gpu, shape[3], _steps(weights))
        if rows == 1
        else convolution_work(low.gpu, shape, _steps(weights), flat=True, wave=low.wave)
    )
    note = "one position" if rows == 1 else ""
    _direct(low, index, operation, "matmul", weights, rows * weights.elements, note, work)


def batch_matmul(low: Lowering, index: int, operation: Operation) -> None:
    """BATCH_MATMUL: a product of computed values; with a batch, its operands are first brought to one image."""
    left, right = operation.inputs[:2]
    batch, height, width, columns = low.draft.shape(operation.outputs[0])
    inner = low.tensor(left).elements // max(1, batch * height * width)
    macs = batch * height * width * columns * inner
    if low.tensor(right).constant:
        weights = low.tensor(right)
        work = convolution_work(low.gpu, (batch, height, width, columns), padded(inner) // 4, flat=True, wave=low.wave)
        node = Node("matmul", operation.name, (index,), [left], list(operation.outputs), macs, macs)
        node.weight_bytes, node.threads, node.fetches = low.weight_bytes(weights), work.threads, work.fetches
        low.add(node)
        return
    if operation.attributes.get("adjX"):
        left = _copied(low, index, operation, left, "transpose of the left operand")
    if operation.attributes.get("adjY"):
        right = _copied(low, index, operation, right, "transpose of the right operand")
    if batch == 1:
        product(low, index, operation, left, right, operation.outputs[0], macs)
        return
    left = _copied(low, index, operation, left, "to one image")
    result = low.draft.fresh((1, batch * height, width, columns))
    product(low, index, operation, left, right, result, macs)
    back = Node("reorder", operation.name, (index,), [result], list(operation.outputs), reorder=True, note="to a batch")
    low.add(back)


def _copied(low: Lowering, index: int, operation: Operation, name: str, note: str) -> str:
    copy = low.draft.fresh(low.draft.shape(name))
    low.add(Node("reorder", operation.name, (index,), [name], [copy], reorder=True, note=note))
    return copy
