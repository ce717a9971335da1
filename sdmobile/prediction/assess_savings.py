"""What the choices of a runtime and a recipe save: the same files predicted without them, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules
from sdmobile.formats.graph import FileGraph, Tensor
from sdmobile.prediction.kernels import Kernel, kernels_of
from sdmobile.prediction.latency import predict

if TYPE_CHECKING:
    from sdmobile.prediction.assess import ComponentCost
    from sdmobile.prediction.assess_device import ChosenUnit

_NEVER = 1 << 30
_FLOAT16 = 2
Launch = Callable[[FileGraph], tuple[Kernel, ...]]


@dataclass(frozen=True)
class Saving:
    """A choice and what the model predicts without it; the choices are switched off one at a time, so they do not add.

    Args:
        choice: what is switched off.
        with_seconds: of all calls of an image, or of one call of each component if no image needs them.
        without_seconds: of the same without the choice.
    """

    choice: str
    with_seconds: float
    without_seconds: float

    @property
    def seconds(self) -> float:
        """What the choice saves."""
        return self.without_seconds - self.with_seconds

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object; every number in it is predicted."""
        return {"predicted": True, **vars(self), "saved_seconds": self.seconds}


def savings(parts: Sequence[ComponentCost], device: ChosenUnit) -> tuple[Saving, ...]:
    """Returns what each choice saves in an image; a choice that no kernel makes is left out.

    Args:
        parts: the components.
        device: the device and its unit.
    """
    counted = [part for part in parts if part.calls] or list(parts)
    found = [_saving(name, launch, counted, device) for name, launch in _choices(device).items()]
    if any(part.recipe for part in counted):
        names = ", ".join(dict.fromkeys(part.recipe for part in counted if part.recipe))
        found.append(_saving(f"recipe {names}", _uncompressed(device), counted, device))
    return tuple(saving for saving in found if saving.without_seconds != saving.with_seconds)


def _saving(choice: str, launch: Launch, parts: Sequence[ComponentCost], device: ChosenUnit) -> Saving:
    model, with_it, without = device.model, 0.0, 0.0
    for part in parts:
        calls = max(1, part.calls)
        with_it += calls * part.prediction.seconds
        without += calls * sum(predict(launch(graph), model).seconds for graph in part.graphs)
    return Saving(choice, with_it, without)


def _choices(device: ChosenUnit) -> dict[str, Launch]:
    """The choices of Google's engines; Core ML's and XNNPACK's are not known, or there are none."""
    rules = device.rules or KernelRules()
    without_flash = rules.model_copy(update={"flash": False})
    full = without_flash.model_copy(update={"reduce_over": _NEVER})
    if device.unit.runtime == "ml-drift":
        return {
            "Winograd": partial(_ml_drift, device=device, rules=rules, winograd=False),
            "FlashAttention": partial(_ml_drift, device=device, rules=without_flash),
            "any fused softmax": partial(_ml_drift, device=device, rules=full),
            "norms as one kernel": partial(_ml_drift, device=device, rules=rules, norms=False),
        }
    if device.unit.runtime == "tflite-gpu":
        return {"Winograd": partial(_delegate, device=device)}
    return {}


def _ml_drift(
    graph: FileGraph, device: ChosenUnit, rules: KernelRules, winograd: bool = True, norms: bool = True
) -> tuple[Kernel, ...]:
    """What ML Drift would launch with a choice switched off; with all of them on it is `ml_drift_kernels`."""
    from sdmobile.device_profiles.runtime_rules.winograd import ML_DRIFT, Gpu
    from sdmobile.prediction.kernels.ml_drift import norm, plain_norm
    from sdmobile.prediction.kernels.ml_drift_attention import attention
    from sdmobile.prediction.kernels.shared_fusion import link, merge_elementwise, merge_reorders
    from sdmobile.prediction.kernels.shared_lowering import Lower, Lowering
    from sdmobile.prediction.kernels.shared_table import SHARED

    lower = norm if norms else plain_norm
    unit = device.unit
    chosen = rules if unit.element_bytes == _FLOAT16 else rules.model_copy(update={"flash": False})
    table: dict[str, Lower] = {**SHARED, "odml.group_norm": lower, "odml.rms_norm": lower}
    table["odml.scaled_dot_product_attention"] = partial(attention, rules=chosen)
    rule, gpu = ML_DRIFT if winograd else None, Gpu(unit.gpu or "other")
    draft = Lowering(graph, table, rule, gpu, unit.element_bytes, keeps_integers=True).run()
    merge_reorders(draft)
    merge_elementwise(draft)
    link(draft)
    return draft.kernels()


def _delegate(graph: FileGraph, device: ChosenUnit) -> tuple[Kernel, ...]:
    """What the classic delegate would launch without Winograd's method."""
    from sdmobile.device_profiles.runtime_rules.winograd import Gpu
    from sdmobile.prediction.kernels.shared_fusion import link, merge_elementwise
    from sdmobile.prediction.kernels.shared_lowering import Lowering
    from sdmobile.prediction.kernels.shared_table import SHARED

    unit = device.unit
    draft = Lowering(graph, SHARED, None, Gpu(unit.gpu or "other"), unit.element_bytes, keeps_integers=False).run()
    merge_elementwise(draft)
    link(draft)
    return draft.kernels()


def _uncompressed(device: ChosenUnit) -> Launch:
    return lambda graph: kernels_of(uncompressed(graph), device.unit, device.rules)


def uncompressed(graph: FileGraph) -> FileGraph:
    """Returns a graph whose compressed constants are float16."""
    return replace(graph, tensors={name: _float16(tensor) for name, tensor in graph.tensors.items()})


def _float16(tensor: Tensor) -> Tensor:
    dense = _FLOAT16 * tensor.elements
    if not tensor.constant or not 0 < tensor.stored_bytes < dense:
        return tensor
    return replace(tensor, dtype="float16", stored_bytes=dense)
