"""The kernels of the classic TFLite GPU delegate.

google-ai-edge/LiteRT@f674577 `tflite/delegates/gpu/common/`: gpu_model.cc (fusion), selectors/operation_selector.cc
(kernels). It knows no composite, and merges no reshapes and transposes with each other. Left out: the special kernels
for chains of convolutions of at most 32 channels (tasks/special/thin_pointwise_fuser.cc), which only the option of
sustained speed allows (cl/api.cc), and the recognition of a LayerNorm written with SQUARE
(tasks/mean_stddev_normalization.cc), which no export of this project writes.
"""

from __future__ import annotations

from sdmobile.device_profiles.runtime_rules.kernel import Kernel
from sdmobile.device_profiles.runtime_rules.winograd import LITERT_DELEGATE, Gpu
from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph.graph import FileGraph
from sdmobile.prediction.kernels.shared_fusion import link, merge_elementwise
from sdmobile.prediction.kernels.shared_lowering import Lowering
from sdmobile.prediction.kernels.shared_table import SHARED


def tflite_gpu_kernels(graph: FileGraph, gpu: Gpu = Gpu.ADRENO_7XX, element_bytes: int = 2) -> tuple[Kernel, ...]:
    """Returns what the classic TFLite GPU delegate launches for a graph.

    Args:
        graph: of a `.tflite` file.
        gpu: whose thresholds for Winograd's method apply.
        element_bytes: size of a float in the run, 2 for the default float16.

    Raises:
        UnsupportedError: the graph has composites, which this delegate does not run.
    """
    composites = sorted({operation.kind for operation in graph.operations if operation.kind.startswith("odml.")})
    if composites:
        raise UnsupportedError(
            "the classic TFLite GPU delegate runs no composites", ", ".join(composites), "Export with --plain-ops"
        )
    draft = Lowering(graph, SHARED, LITERT_DELEGATE, gpu, element_bytes, keeps_integers=False).run()
    merge_elementwise(draft)
    link(draft)
    return draft.kernels()
