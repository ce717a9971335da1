"""What each optimisation of Chen et al. 2023 saves in a call of Stable Diffusion 1.4's UNet, by the latency model.

The steps are those of the paper (arXiv 2304.11267): partially fused softmax; one kernel each for GroupNorm and for
GEGLU's GELU; FlashAttention; Winograd's method. Each row has all steps before it, too. The graph is the same in all
rows; what changes is what the engine makes of it. Winograd's method is taken by the rule of the time, that of the
TFLite delegate, which does not count the images of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules
from sdmobile.device_profiles.runtime_rules.kernel import Kernel
from sdmobile.device_profiles.runtime_rules.tflite_operators import GROUP_NORM
from sdmobile.device_profiles.runtime_rules.winograd import LITERT_DELEGATE, Gpu
from sdmobile.formats.graph import FileGraph, Operation
from sdmobile.prediction.kernels.google_gpu import ml_drift_kernels
from sdmobile.prediction.kernels.ml_drift_composites import norm, plain_norm
from sdmobile.prediction.kernels.shared_lowering import Lower, Lowering
from sdmobile.prediction.kernels.shared_nodes import Node
from sdmobile.prediction.latency import UnitModel, predict

# The published reductions of a UNet call by all steps together (arXiv 2304.11267, as reported by secondary sources).
PUBLISHED_REDUCTION = {"galaxy-s23-ultra": 0.522, "iphone-14-pro-max": 0.329}


@dataclass(frozen=True)
class Engine:
    """Which optimisations an engine has.

    Args:
        fused_softmax: the softmax's division is part of the value product.
        fused_norm: GroupNorm is one kernel.
        fused_gelu: GEGLU's split, GELU and product need no pass of their own.
        flash: FlashAttention where the engine's rule takes it.
        winograd: Winograd's method where the engine's rule takes it.
    """

    fused_softmax: bool = True
    fused_norm: bool = True
    fused_gelu: bool = True
    flash: bool = True
    winograd: bool = True


STEPS: tuple[tuple[str, Engine], ...] = (
    ("baseline", Engine(False, False, False, False, False)),
    ("fused softmax", Engine(True, False, False, False, False)),
    ("GroupNorm and GELU kernels", Engine(True, True, True, False, False)),
    ("FlashAttention", Engine(True, True, True, True, False)),
    ("Winograd", Engine()),
)


@dataclass(frozen=True)
class AblationRow:
    """A cumulative step, and what the model predicts for one call of the UNet.

    Args:
        step: name.
        seconds: predicted.
        reduction: against the baseline, as a fraction.
        launches: dispatches.
        macs: as executed.
        bytes: memory traffic.
    """

    step: str
    seconds: float
    reduction: float
    launches: int
    macs: int
    bytes: int


def engine_kernels(graph: FileGraph, engine: Engine, gpu: Gpu) -> tuple[Kernel, ...]:
    """Returns what an engine of the ML Drift family with these optimisations launches for a graph with composites."""
    rules = KernelRules().without(flash=not engine.flash, fused_softmax=not engine.fused_softmax)
    instead: dict[str, Lower] = {} if engine.fused_norm else {GROUP_NORM: _plain_group_norm}
    instead |= {} if engine.fused_gelu else {"gelu": _plain_geglu}
    winograd = LITERT_DELEGATE if engine.winograd else None
    return ml_drift_kernels(graph, gpu, rules=rules, winograd=winograd, instead=instead)


def _plain_group_norm(low: Lowering, index: int, operation: Operation) -> None:
    """GroupNorm in steps; LayerNorm, which is one group, stays one kernel, for the paper speaks of GroupNorm only."""
    lower = plain_norm if int(operation.attributes.get("num_groups", 1)) > 1 else norm
    lower(low, index, operation)


def _plain_geglu(low: Lowering, index: int, operation: Operation) -> None:
    """GEGLU's split and GELU of separate operators: two copies, x/√2 and erf, 1 + erf, the product with x/2."""
    gate, draft = operation.inputs[0], low.draft
    shape = draft.shape(gate)

    def add(category: str, inputs: list[str], output: str) -> str:
        low.add(Node(category, operation.name, (index,), inputs, [output], note="plain GEGLU"))  # pyright: ignore
        return output

    add(
        "copy", [gate], draft.fresh(shape)
    )  # the half that is not gated; its reader keeps the linear layer's own output
    half = add("copy", [gate], draft.fresh(shape))
    erf = add("elementwise", [half], draft.fresh(shape))
    shifted = add("elementwise", [erf], draft.fresh(shape))
    add("elementwise", [shifted, half], operation.outputs[0])


def ablation(graph: FileGraph, unit: UnitModel, gpu: Gpu) -> tuple[AblationRow, ...]:
    """Returns the cumulative steps for a UNet with composites on a unit."""
    rows: list[AblationRow] = []
    for step, engine in STEPS:
        kernels = engine_kernels(graph, engine, gpu)
        seconds = predict(kernels, unit).seconds
        first = rows[0].seconds if rows else seconds
        totals = (sum(k.launches for k in kernels), sum(k.macs for k in kernels), sum(k.bytes for k in kernels))
        rows.append(AblationRow(step, seconds, 1.0 - seconds / first, *totals))
    return tuple(rows)


def ablations(graph: FileGraph, units: Mapping[str, tuple[UnitModel, Gpu]]) -> dict[str, tuple[AblationRow, ...]]:
    """Returns the cumulative steps on every phone for which a reduction was published.

    Args:
        graph: SD1.4's UNet with composites.
        units: by the names of `PUBLISHED_REDUCTION`: the phone's GPU under Google's engine, and its family.
    """
    return {phone: ablation(graph, *units[phone]) for phone in PUBLISHED_REDUCTION if phone in units}
