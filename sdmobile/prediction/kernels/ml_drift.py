"""The kernels of ML Drift, the GPU engine of LiteRT.

google-ai-edge/ml-drift: `ml_drift/common/selectors/operation_selector.cc` (composites), `gpu_model_builder.cc`
(attention, norms; @013b44b), `merge_nodes.cc` (fusion; @393e0e9), `winograd_util.cc`. Left out: its special kernels for
chains of convolutions of at most 32 channels (`kernels/special/`), which diffusion models do not have.
"""

from __future__ import annotations

from functools import partial

from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules
from sdmobile.device_profiles.runtime_rules.kernel import Category, Kernel
from sdmobile.device_profiles.runtime_rules.winograd import ML_DRIFT, Gpu
from sdmobile.formats.graph.graph import FileGraph, Operation
from sdmobile.prediction.kernels.ml_drift_attention import attention
from sdmobile.prediction.kernels.shared_fusion import link, merge_elementwise, merge_reorders
from sdmobile.prediction.kernels.shared_lowering import Lower, Lowering
from sdmobile.prediction.kernels.shared_nodes import Node
from sdmobile.prediction.kernels.shared_table import SHARED


def ml_drift_kernels(
    graph: FileGraph, gpu: Gpu = Gpu.ADRENO_7XX, element_bytes: int = 2, rules: KernelRules | None = None
) -> tuple[Kernel, ...]:
    """Returns what ML Drift launches for a graph.

    Args:
        graph: of a `.tflite` file.
        gpu: whose thresholds for Winograd's method apply.
        element_bytes: size of a float in the run, 2 for the default float16.
        rules: how it chooses a kernel for attention; None for its own numbers. The one fused kernel needs float16.
    """
    chosen = rules or KernelRules()
    if element_bytes != 2:
        chosen = chosen.model_copy(update={"flash": False})
    table: dict[str, Lower] = {
        **SHARED,
        "odml.group_norm": norm,
        "odml.rms_norm": norm,
        "odml.scaled_dot_product_attention": partial(attention, rules=chosen),
    }
    draft = Lowering(graph, table, ML_DRIFT, gpu, element_bytes, keeps_integers=True).run()
    merge_reorders(draft)
    merge_elementwise(draft)
    link(draft)
    return draft.kernels()


def norm(low: Lowering, index: int, operation: Operation) -> None:
    """GroupNorm, LayerNorm or RMSNorm in one kernel: a pass for the moments, another that normalises.

    HWCGroupNormalization takes groups of an even number of channels or of one; other groups are a reshape, two
    reductions, the normalisation and a reshape (HWCGroupNorm).
    """
    channels = low.draft.shape(operation.inputs[0])[3]
    groups = int(operation.attributes.get("num_groups", 1))
    size = channels // max(1, groups)
    weights = low.constant_bytes(operation)
    if operation.kind == "odml.rms_norm" or groups == 1 or size == 1 or size % 2 == 0:
        low.like(index, operation, "norm", passes=2, weight_bytes=weights, note=f"{groups} groups of {size} channels")
        return
    _odd_groups(low, index, operation, groups, size)


def _odd_groups(low: Lowering, index: int, operation: Operation, groups: int, size: int) -> None:
    batch, height, width, _ = low.draft.shape(operation.inputs[0])
    grouped, result = (low.draft.fresh((batch, height * width, groups, size)) for _ in range(2))
    moments = [low.draft.fresh((batch, 1, groups, 1)) for _ in range(2)]
    name, note = operation.name, f"{groups} groups of {size} channels: no kernel for odd groups"
    low.add(Node("copy", name, (index,), low.runtime(operation)[:1], [grouped], reorder=True, note=note))
    for moment in moments:
        low.add(Node("reduce", name, (index,), [grouped], [moment], note=note))
    weights = low.constant_bytes(operation)
    low.add(Node("elementwise", name, (index,), [grouped, *moments], [result], weight_bytes=weights, note=note))
    low.add(Node("copy", name, (index,), [result], list(operation.outputs), reorder=True, note=note))


def plain_norm(low: Lowering, index: int, operation: Operation) -> None:
    """The same norms for comparison with a kernel per step, which no rule of the engine chooses.

    Mean, difference, square, mean, scaling; groups by two reshapes.
    """
    source = low.runtime(operation)[0]
    batch, height, width, channels = low.draft.shape(source)
    groups = int(operation.attributes.get("num_groups", 1))
    over_channels = operation.kind == "odml.rms_norm" or groups == 1
    shape = (batch, height, width, channels) if over_channels else (batch, height * width, groups, channels // groups)
    moment = (batch, height, width, 1) if over_channels else (batch, 1, groups, 1)

    def add(category: Category, inputs: list[str], output: str, **fields: object) -> str:
        low.add(Node(category, operation.name, (index,), inputs, [output], note="norm in steps", **fields))  # pyright: ignore
        return output

    fresh = low.draft.fresh
    x = source if over_channels else add("copy", [source], fresh(shape), reorder=True)
    centred = add("elementwise", [x, add("reduce", [x], fresh(moment))], fresh(shape), linkable=True)
    squares = add("elementwise", [centred], fresh(shape), linkable=True)
    deviation = add("elementwise", [add("reduce", [squares], fresh(moment))], fresh(moment), linkable=True)
    weights = low.constant_bytes(operation)
    result = operation.outputs[0] if over_channels else fresh(shape)
    add("elementwise", [centred, deviation], result, linkable=True, weight_bytes=weights)
    if not over_channels:
        add("copy", [result], operation.outputs[0], reorder=True)
