"""The operators of a `.tflite` file: groups that runtimes treat alike, and which ones each GPU runtime parses.

Versions are read from NewOperationParser and the parsers' version checks in google-ai-edge/LiteRT@f67457790c:
ml_drift_delegate/tflite/model_builder.cc (ML Drift) and tflite/delegates/gpu/common/model_builder.cc (classic).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal


def words(text: str) -> tuple[str, ...]:
    """Returns the words of a text; tables of operators read better so than as quoted lists."""
    return tuple(text.split())


UNARY = words("ABS CEIL COS ELU EXP FLOOR GELU LOG LOGICAL_NOT LOGISTIC NEG ROUND RSQRT SIGN SIN SQRT SQUARE TANH")
CLAMPS = words("RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1")
ACTIVATIONS = (*CLAMPS, "LEAKY_RELU")
COMPARISONS = words("EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL")
PAIRS = words("ATAN2 DIV FLOOR_DIV FLOOR_MOD MAXIMUM MINIMUM POW SQUARED_DIFFERENCE SUB")
SUMS_AND_PRODUCTS = words("ADD ADD_N MUL")
LOGICAL = words("LOGICAL_AND LOGICAL_OR")
SHIFTS = words("RIGHT_SHIFT STABLEHLO_SHIFT_LEFT")
REDUCTIONS = words("MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD")
LOGICAL_REDUCTIONS = words("REDUCE_ALL REDUCE_ANY")
ARGUMENTS = words("ARG_MAX ARG_MIN")
CONVOLUTIONS = words("CONV_2D DEPTHWISE_CONV_2D")
POOLS = words("AVERAGE_POOL_2D MAX_POOL_2D")
RESIZES = words("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR")
PADS = words("PAD PADV2 MIRROR_PAD")
SPLITS = words("SPLIT SPLIT_V")
PACKS = words("PACK UNPACK")
SLICES = words("SLICE STRIDED_SLICE")
SELECTS = words("SELECT SELECT_V2")
BLOCKS = words("DEPTH_TO_SPACE SPACE_TO_DEPTH")
TABLES = words("EMBEDDING_LOOKUP GATHER")
"""Look-ups in a table that a file may store."""
LOOK_UPS = (*TABLES, "GATHER_ND", "ONE_HOT")
VIEWS = words("RESHAPE SQUEEZE EXPAND_DIMS")

COMPOSITE = "STABLEHLO_COMPOSITE"
GROUP_NORM, RMS_NORM, ATTENTION = "odml.group_norm", "odml.rms_norm", "odml.scaled_dot_product_attention"
"""Composites by the names that ML Drift knows; a LayerNorm is a group norm of one group, or without reduction axes."""


def kinds(*operators: Iterable[str]) -> frozenset[str]:
    """Returns groups of operators by the lower-case names that a graph has for them."""
    return frozenset(operator.lower() for group in operators for operator in group)


GpuRuntime = Literal["ml-drift", "tflite-gpu"]
GPU_RUNTIMES: tuple[GpuRuntime, ...] = ("ml-drift", "tflite-gpu")


# operator: highest version in ML Drift, highest version in the classic delegate; "-" for no parser, "*" for any version
_TABLE = """
ABS                       5  2
ADD                       6  2
ADD_N                     6  2
ARG_MAX                   *  -
ATAN2                     2  -
AVERAGE_POOL_2D           2  2
BATCH_MATMUL              *  *
BITCAST                   *  -
BITWISE_XOR               2  -
CAST                      *  *
CEIL                      2  -
CONCATENATION             6  2
CONV_2D                   6  6
COS                       2  2
CUMSUM                    1  1
DENSIFY                   -  1
DEPTHWISE_CONV_2D         6  6
DEPTH_TO_SPACE            *  *
DEQUANTIZE                3  3
DIV                       2  2
DYNAMIC_UPDATE_SLICE      *  -
ELU                       2  2
EMBEDDING_LOOKUP          *  -
EQUAL                     2  2
EXP                       2  2
FLOOR                     2  2
FLOOR_DIV                 3  2
FLOOR_MOD                 2  2
FULLY_CONNECTED          14  9
GATHER                    *  1
GELU                      3  2
GREATER                   2  2
GREATER_EQUAL             2  2
HARD_SWISH                *  *
LEAKY_RELU                2  2
LESS                      2  2
LESS_EQUAL                2  2
LOG                       2  2
LOGICAL_AND               2  2
LOGICAL_NOT               2  -
LOGICAL_OR                2  -
LOGISTIC                  2  2
LSTM                      4  4
MAXIMUM                   4  2
MAX_POOL_2D               2  2
MEAN                      *  *
MINIMUM                   4  2
MIRROR_PAD                5  2
MUL                       8  3
NEG                       2  2
NOT_EQUAL                 2  2
ONE_HOT                   1  1
PACK                      *  *
PAD                       5  2
PADV2                     5  2
POW                       2  2
PRELU                     1  1
QUANTIZE                  2  2
REDUCE_ALL                *  -
REDUCE_ANY                *  -
REDUCE_MAX                *  *
REDUCE_MIN                *  *
REDUCE_PROD               *  *
RELU                      2  2
RELU6                     2  2
RELU_0_TO_1               2  2
RELU_N1_TO_1              2  2
RESHAPE                   1  1
RESIZE_BILINEAR           3  3
RESIZE_NEAREST_NEIGHBOR   3  3
REVERSE_V2                *  -
RIGHT_SHIFT               2  -
ROUND                     2  -
RSQRT                     2  2
SELECT                    1  1
SELECT_V2                 1  1
SIGN                      2  2
SIN                       2  2
SLICE                     8  2
SOFTMAX                   4  2
SPACE_TO_DEPTH            2  2
SPLIT                     *  *
SPLIT_V                   *  *
SQRT                      2  2
SQUARE                    2  2
SQUARED_DIFFERENCE        2  2
STABLEHLO_BROADCAST_IN_DIM *  -
STABLEHLO_CBRT            *  -
STABLEHLO_CLAMP           *  -
STABLEHLO_COMPOSITE       *  -
STABLEHLO_REMAINDER       *  -
STABLEHLO_SHIFT_LEFT      2  -
STRIDED_SLICE             2  4
SUB                       2  2
SUM                       *  *
TANH                      2  2
TILE                      *  *
TOPK_V2                   1  -
TRANSPOSE                 9  4
TRANSPOSE_CONV            3  3
UNPACK                    *  *
CUSTOM                    *  *
"""

CUSTOM_OPERATORS: dict[GpuRuntime, frozenset[str]] = {
    "tflite-gpu": frozenset({"Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D", "Resampler"}),
    "ml-drift": frozenset(
        {
            "Convolution2DTransposeBias",
            "MaxPoolingWithArgmax2D",
            "MaxUnpooling2D",
            "Resampler",
            "custom_call.GroupNorm",
            "custom_call.LayerNorm",
            "custom_call.RmsNorm",
            "custom_call.PixelShuffle",
            "custom_call.absolute_positional_embedding",
            "custom_call.rotary_positional_embedding",
        }
    ),
}


def _parse() -> dict[GpuRuntime, dict[str, int | None]]:
    tables: dict[GpuRuntime, dict[str, int | None]] = {"ml-drift": {}, "tflite-gpu": {}}
    for line in _TABLE.split("\n"):
        if line:
            name, *versions = line.split()
            for runtime, version in zip(GPU_RUNTIMES, versions, strict=True):
                if version != "-":
                    tables[runtime][name] = None if version == "*" else int(version)
    return tables


SUPPORT = _parse()
"""Runtime to operator to its highest version, None where the parser states none; a missing operator is refused."""
