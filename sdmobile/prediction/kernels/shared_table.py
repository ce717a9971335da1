"""What each operator of a `.tflite` file becomes in both of Google's GPU engines."""

from __future__ import annotations

from sdmobile.formats.tflite.model import words
from sdmobile.prediction.kernels import shared_convolution as convolutions
from sdmobile.prediction.kernels.shared_lowering import Lower, alone, elementwise, pad, part, pooling, reorder

_ELEMENTWISE = words(
    "abs add add_n atan2 bitwise_xor cast ceil cos div elu equal exp floor floor_div floor_mod gelu greater "
    "greater_equal hard_swish leaky_relu less less_equal log logical_and logical_not logical_or logistic "
    "maximum minimum mul neg not_equal pow prelu quantize dequantize relu relu6 relu_0_to_1 relu_n1_to_1 "
    "round rsqrt sign sin sqrt square squared_difference stablehlo_cbrt stablehlo_remainder sub tanh"
)
_COPIES = words(
    "broadcast_to concatenation depth_to_space mirror_pad pack padv2 reverse_v2 space_to_depth split split_v "
    "stablehlo_broadcast_in_dim tile unpack"
)
_REDUCTIONS = words(
    "arg_max arg_min cumsum mean reduce_all reduce_any reduce_max reduce_min reduce_prod sum topk_v2 l2_normalization"
)

SHARED: dict[str, Lower] = {
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **dict.fromkeys(_COPIES, alone("copy")),
    **dict.fromkeys(_REDUCTIONS, alone("reduce")),
    **dict.fromkeys(("select", "select_v2", "stablehlo_clamp"), alone("elementwise")),
    **dict.fromkeys(("reshape", "transpose", "squeeze", "expand_dims"), reorder),
    **dict.fromkeys(("slice", "strided_slice"), part("copy")),
    **dict.fromkeys(("embedding_lookup", "gather", "gather_nd", "one_hot"), part("gather")),
    **dict.fromkeys(("average_pool_2d", "max_pool_2d"), pooling),
    **dict.fromkeys(("resize_bilinear", "resize_nearest_neighbor"), alone("resize")),
    "softmax": alone("softmax"),
    "pad": pad,
    "conv_2d": convolutions.convolution,
    "depthwise_conv_2d": convolutions.depthwise,
    "transpose_conv": convolutions.transposed,
    "fully_connected": convolutions.fully_connected,
    "batch_matmul": convolutions.batch_matmul,
}
