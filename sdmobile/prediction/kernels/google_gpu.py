"""The kernels of Google's GPU engines: ML Drift, which LiteRT runs, and the classic TFLite GPU delegate.

ML Drift, google-ai-edge/ml-drift: `ml_drift/common/selectors/operation_selector.cc` (composites),
`gpu_model_builder.cc` (attention, norms; @013b44b), `merge_nodes.cc` (fusion; @393e0e9), `winograd_util.cc`. Left out:
its special kernels for chains of convolutions of at most 32 channels (`kernels/special/`), which diffusion models do
not have.

The delegate, google-ai-edge/LiteRT@f674577 `tflite/delegates/gpu/common/`: gpu_model.cc (fusion),
selectors/operation_selector.cc (kernels). It knows no composite, and merges no reshapes and transposes with each other.
Left out: the special kernels for chains of convolutions of at most 32 channels
(tasks/special/thin_pointwise_fuser.cc), which only the option of sustained speed allows (cl/api.cc), and the
recognition of a LayerNorm written with SQUARE (tasks/mean_stddev_normalization.cc), which no export of this project
writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from sdmobile.device_profiles.runtime_rules import tflite_operators as operators
from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules
from sdmobile.device_profiles.runtime_rules.kernel import Kernel
from sdmobile.device_profiles.runtime_rules.tflite_operators import kinds, words
from sdmobile.device_profiles.runtime_rules.winograd import LITERT_DELEGATE, ML_DRIFT, Gpu, RuntimeRule
from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph.graph import FileGraph
from sdmobile.prediction.kernels import shared_convolution as convolutions
from sdmobile.prediction.kernels.ml_drift_composites import attention, norm
from sdmobile.prediction.kernels.shared_lowering import Lower, Lowering, alone, elementwise, pad, part, pooling, reorder
from sdmobile.prediction.kernels.shared_nodes import link, merge_elementwise, merge_reorders

_HALF = 2  # bytes of a float16
_ELEMENTWISE = kinds(
    operators.UNARY,
    operators.ACTIVATIONS,
    operators.COMPARISONS,
    operators.PAIRS,
    operators.SUMS_AND_PRODUCTS,
    operators.LOGICAL,
    words("BITWISE_XOR CAST HARD_SWISH PRELU QUANTIZE DEQUANTIZE STABLEHLO_CBRT STABLEHLO_REMAINDER"),
)
_COPIES = kinds(
    operators.SPLITS,
    operators.PACKS,
    operators.BLOCKS,
    words("BROADCAST_TO CONCATENATION MIRROR_PAD PADV2 REVERSE_V2 STABLEHLO_BROADCAST_IN_DIM TILE"),
)
_REDUCTIONS = kinds(
    operators.REDUCTIONS,
    operators.LOGICAL_REDUCTIONS,
    operators.ARGUMENTS,
    words("CUMSUM TOPK_V2 L2_NORMALIZATION"),
)

SHARED: dict[str, Lower] = {
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **dict.fromkeys(_COPIES, alone("copy")),
    **dict.fromkeys(_REDUCTIONS, alone("reduce")),
    **dict.fromkeys(kinds(operators.SELECTS, ["STABLEHLO_CLAMP"]), alone("elementwise")),
    **dict.fromkeys(kinds(operators.VIEWS, ["TRANSPOSE"]), reorder),
    **dict.fromkeys(kinds(operators.SLICES), part("copy")),
    **dict.fromkeys(kinds(operators.LOOK_UPS), part("gather")),
    **dict.fromkeys(kinds(operators.POOLS), pooling),
    **dict.fromkeys(kinds(operators.RESIZES), alone("resize")),
    "softmax": alone("softmax", passes=2),  # a row is gone over twice (tasks/softmax.cc in either engine)
    "pad": pad,
    "conv_2d": convolutions.convolution,
    "depthwise_conv_2d": convolutions.depthwise,
    "transpose_conv": convolutions.transposed,
    "fully_connected": convolutions.fully_connected,
    "batch_matmul": convolutions.batch_matmul,
}
"""What each operator of a `.tflite` file becomes in both engines."""


def ml_drift_kernels(
    graph: FileGraph,
    gpu: Gpu = Gpu.ADRENO_7XX,
    element_bytes: int = 2,
    rules: KernelRules | None = None,
    *,
    winograd: RuntimeRule | None = ML_DRIFT,
    instead: Mapping[str, Lower] | None = None,
    half_sums: bool | None = None,
) -> tuple[Kernel, ...]:
    """Returns what ML Drift launches for a graph, or would launch if it chose otherwise.

    Args:
        graph: of a `.tflite` file.
        gpu: whose thresholds for Winograd's method apply.
        element_bytes: size of a float in the run, 2 for the default float16.
        rules: how it chooses a kernel for attention; None for its own numbers. The one fused kernel needs float16.
        winograd: when it takes Winograd's method; None for never.
        instead: by kind of operation, what comes in place of the engine's own kernels.
        half_sums: whether products are added up in float16; None for as all else. Without, no fused kernel either.
    """
    chosen = rules or KernelRules()
    half = element_bytes == _HALF if half_sums is None else half_sums
    if not half:
        chosen = chosen.without(flash=True)
    table: dict[str, Lower] = {
        **SHARED,
        operators.GROUP_NORM: norm,
        operators.RMS_NORM: norm,
        operators.ATTENTION: partial(attention, rules=chosen),
        **(instead or {}),
    }
    draft = Lowering(graph, table, winograd, gpu, element_bytes, keeps_integers=True, half_sums=half).run()
    merge_reorders(draft)
    merge_elementwise(draft)
    link(draft)
    return draft.kernels()


def tflite_gpu_kernels(
    graph: FileGraph,
    gpu: Gpu = Gpu.ADRENO_7XX,
    element_bytes: int = 2,
    *,
    winograd: RuntimeRule | None = LITERT_DELEGATE,
) -> tuple[Kernel, ...]:
    """Returns what the classic TFLite GPU delegate launches for a graph; arguments as of `ml_drift_kernels`.

    Raises:
        UnsupportedError: the graph has composites, which this delegate does not run.
    """
    composites = sorted({operation.kind for operation in graph.operations if operation.kind.startswith("odml.")})
    if composites:
        raise UnsupportedError(
            "the classic TFLite GPU delegate runs no composites", ", ".join(composites), "Export with --plain-ops"
        )
    half = element_bytes == _HALF
    draft = Lowering(graph, SHARED, winograd, gpu, element_bytes, keeps_integers=False, half_sums=half).run()
    merge_elementwise(draft)
    link(draft)
    return draft.kernels()
