"""Weights as ML Drift transforms them for Winograd's method: four times as large, and so a GPU's largest tensors."""

from __future__ import annotations

from typing import Any

from sdmobile.device_profiles.runtime_rules.conv_layer import ConvLayer
from sdmobile.device_profiles.runtime_rules.winograd import ML_DRIFT, Gpu

_CONVOLUTION = "CONV_2D"


def transformed_weights(model: Any, operator: Any, name: str, schema: Any) -> tuple[int, ...] | None:
    """Returns the shape of the buffer of transformed weights, None without one.

    A software GPU is of the family `Gpu.OTHER`. Measured with float32 weights of 1920 to 640 channels at 32×32, 177 MB
    transformed: on lavapipe, whose buffers hold 134 MB, the result is wrong without a word; on SwiftShader, where they
    are a texture of 17,280 rows, WebGPU refuses it.

    Args:
        model: the file's root table.
        operator: one operator of the main graph.
        name: of its kind.
        schema: LiteRT's generated classes.
    """
    if name != _CONVOLUTION:
        return None
    graph = model.Subgraphs(0)
    kernel, output = (graph.Tensors(index).ShapeAsNumpy() for index in (operator.Inputs(1), operator.Outputs(0)))
    options = schema.Conv2DOptions()
    table = operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    layer = ConvLayer(
        batch=int(output[0]),
        channels=(int(kernel[3]), int(kernel[0])),
        size=(int(output[1]), int(output[2])),
        kernel=(int(kernel[1]), int(kernel[2])),
        stride=(options.StrideH(), options.StrideW()),
        dilation=(options.DilationHFactor(), options.DilationWFactor()),
    )
    return ML_DRIFT.weight_buffer(layer, Gpu.OTHER)
