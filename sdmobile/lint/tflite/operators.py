"""Which operators each GPU runtime parses, and the highest version of each it takes.

Read from NewOperationParser and the parsers' version checks in google-ai-edge/LiteRT@f67457790c:
ml_drift_delegate/tflite/model_builder.cc (ML Drift) and tflite/delegates/gpu/common/model_builder.cc (classic).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Runtime = Literal["ml-drift", "tflite-gpu"]
RUNTIMES: tuple[Runtime, ...] = ("ml-drift", "tflite-gpu")


@dataclass(frozen=True)
class Support:
    """Whether a runtime has a parser for an operator.

    Args:
        max_version: highest version, None where the parser states none.
    """

    max_version: int | None


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

CUSTOM_OPERATORS: dict[Runtime, frozenset[str]] = {
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

FIXES = {
    "BROADCAST_TO": "Let the operator that follows broadcast (a GroupNorm written with mean, subtract, multiply does; "
    "the rewrite rule group_norm writes it so), or use TILE; google-ai-edge/LiteRT#9191",
    "SQUEEZE": "Write it as RESHAPE",
    "EXPAND_DIMS": "Write it as RESHAPE",
    "GATHER_ND": "Write it as GATHER over one axis",
    "LOG_SOFTMAX": "Write it as SOFTMAX and LOG",
    "L2_NORMALIZATION": "Write it as MUL, SUM, RSQRT, MUL",
    "ARG_MIN": "Write it as NEG and ARG_MAX",
    "RELU_0_TO_1": "Write it as MINIMUM and RELU",
    "SPACE_TO_BATCH_ND": "Use the dilation of CONV_2D instead",
    "BATCH_TO_SPACE_ND": "Use the dilation of CONV_2D instead",
    "STABLEHLO_COMPOSITE": "Export with plain operators (--plain-ops)",
}
GENERAL_FIX = "Write it with other operators before the export, or leave this part to the CPU"


def _parse() -> dict[Runtime, dict[str, Support]]:
    tables: dict[Runtime, dict[str, Support]] = {"ml-drift": {}, "tflite-gpu": {}}
    for line in _TABLE.split("\n"):
        if line:
            name, *versions = line.split()
            for runtime, version in zip(RUNTIMES, versions, strict=True):
                if version != "-":
                    tables[runtime][name] = Support(None if version == "*" else int(version))
    return tables


SUPPORT = _parse()
"""Runtime to operator to support; an operator that is missing is refused."""
