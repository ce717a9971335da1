"""Which kernels a runtime launches for the graph of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.device_profiles.runtime_rules.kernel import CATEGORIES, Category, Kernel

if TYPE_CHECKING:
    from sdmobile.device_profiles.costs_schema import Unit
    from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules
    from sdmobile.formats.graph.graph import FileGraph

__all__ = ["CATEGORIES", "Category", "Kernel", "kernels_of"]


def kernels_of(graph: FileGraph, unit: Unit, rules: KernelRules | None = None) -> tuple[Kernel, ...]:
    """Returns what a unit's runtime launches for a graph.

    Args:
        graph: of a saved file.
        unit: the compute unit and its runtime.
        rules: how Google's engine chooses a kernel for attention; None for its own numbers.

    Raises:
        UnsupportedError: the runtime does not run such files.
    """
    from sdmobile.device_profiles.runtime_rules.winograd import Gpu
    from sdmobile.errors import UnsupportedError

    wanted = "mlprogram" if unit.runtime.startswith("coreml") else "tflite"
    if graph.format != wanted:
        raise UnsupportedError("the file must be one that the runtime runs", f"{unit.runtime}: a {graph.format} file")
    gpu = Gpu(unit.gpu or "other")
    if unit.runtime in ("ml-drift", "ml-drift-webgpu"):
        from sdmobile.prediction.kernels.google_gpu import ml_drift_kernels

        return ml_drift_kernels(graph, gpu, unit.element_bytes, rules)
    if unit.runtime == "tflite-gpu":
        from sdmobile.prediction.kernels.google_gpu import tflite_gpu_kernels

        return tflite_gpu_kernels(graph, gpu, unit.element_bytes)
    if unit.runtime in ("coreml-ne", "coreml-gpu"):
        from sdmobile.prediction.kernels.core_ml import core_ml_kernels

        engine = "neural-engine" if unit.runtime == "coreml-ne" else "gpu"
        return core_ml_kernels(graph, engine, unit.element_bytes)
    if unit.runtime == "xnnpack":
        from sdmobile.prediction.kernels.xnnpack import LAST_LEVEL, SECOND_LEVEL, xnnpack_kernels

        last, second = (fact.value if fact is not None else None for fact in (unit.last_level, unit.second_level))
        return xnnpack_kernels(graph, int(last or LAST_LEVEL), int(second or SECOND_LEVEL))
    raise UnsupportedError("the runtime must be one whose kernels are known", unit.runtime)
