"""How many bytes a tensor of a `.tflite` file takes on Google's GPU engine ML Drift, by the engine's own source.

Read in google-ai-edge/ml-drift, `ml_drift/common/`, and google-ai-edge/LiteRT@f674577, `ml_drift_delegate/tflite/`:

- size: TensorDescriptor::GetMemorySizeInBytes and GetStorageDims (`task/tensor_desc.cc`), the bytes that
  AllocateTensorMemory asks the driver for (`webgpu/spatial_tensor.cc`, `cl/tensor.cc`);
- bytes of an element: SizeOf (`data_type.cc`); a boolean is a byte, nothing is widened to 32 bits;
- precision: GetTensorDescForValue (`gpu_model_util.cc`, `ir_model_util.cc`) changes FLOAT32 alone; float weights get
  DeduceDataTypeFromPrecision (`precision.cc`; GetConvParams in `kernels/conv_generic.cc`);
- layout: ExtractTensorShape, ToDataType, SetAllDimensions to Linear (`model_builder_helper.cc`);
- quantised values: ReadNonConstantTensor puts a FLOAT32 tensor in place of a computed one of 8 bits
  (`object_reader.cc`; AddTensor in `ir_model_builder.cc`).

The classic delegate (`tflite/delegates/gpu/common/task/tensor_desc.cc`) stores tensors in the same slices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Bhwc = tuple[int, int, int, int]

SLICE = 4
"""Channels are stored and computed in groups of four."""

_SIZE_OF = {
    **dict.fromkeys(("bool", "int8", "uint8", "int4", "uint4", "int3", "uint3", "int2", "uint2", "int1", "uint1"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64"), 8),
}
_HALVES = frozenset({"float16", "bfloat16"})
_QUANTIZED = frozenset({"int8", "uint8"})


def padded(channels: int) -> int:
    """Returns the channels that are stored and computed, ⌈C/4⌉·4."""
    return -(-channels // SLICE) * SLICE


def bhwc(shape: Sequence[int]) -> Bhwc:
    """Returns a shape as (batch, height, width, channels), as ExtractTensorShape of both engines does.

    A single dimension is the batch. What stands before the last three dimensions is one batch: a fifth dimension is the
    engine's depth, which counts like any other.
    """
    if len(shape) < 2:
        return (shape[0] if shape else 1, 1, 1, 1)
    if len(shape) == 2:
        return (shape[0], 1, 1, shape[1])
    if len(shape) == 3:
        return (shape[0], 1, shape[1], shape[2])
    return (math.prod(shape[:-3]), shape[-3], shape[-2], shape[-1])


def element_bytes(dtype: str, float_bytes: int, *, constant: bool = False, quantized: bool = False) -> int:
    """Returns the bytes of one element on the GPU; arguments as of `gpu_bytes`, 0 for a type that the engine lacks."""
    name = dtype.lower()
    held_as_float = name in _HALVES if constant else quantized and name in _QUANTIZED
    return float_bytes if name == "float32" or held_as_float else _SIZE_OF.get(name, 0)


def gpu_bytes(
    shape: Sequence[int], dtype: str, float_bytes: int, *, constant: bool = False, quantized: bool = False
) -> int:
    """Returns the bytes of a tensor in a buffer of the GPU: B · H · W · ⌈C / 4⌉ · 4 elements.

    Textures take as much, or less below four channels where a driver has such formats (SINGLE_TEXTURE_2D). Weights
    below 8 bits that stay packed take less; integer weights that a convolution turns into floats take more.

    Args:
        shape: dimensions in the file's order; a stored row lies along the channels (Layout::LINEAR), a computed one
            along the batch, where each number takes a slice of its own.
        dtype: element type in the file by the schema's name, in either case: "FLOAT32", "int8".
        float_bytes: of a float in the run: 4 in the precision F32, 2 in F16 and in F32_F16.
        constant: the file holds the values; halves are then weights, and become the run's floats.
        quantized: the file gives a scale and a zero point; computed values of 8 bits are then held as floats.

    Returns:
        Bytes.
    """
    row = constant and len(shape) == 1
    batch, height, width, channels = (1, 1, 1, shape[0]) if row else bhwc(shape)
    size = element_bytes(dtype, float_bytes, constant=constant, quantized=quantized)
    return batch * height * width * padded(channels) * size
