"""What the choices of a runtime and a recipe save: the same files predicted without them, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules
from sdmobile.device_profiles.runtime_rules.tflite_operators import GROUP_NORM, RMS_NORM
from sdmobile.device_profiles.runtime_rules.winograd import Gpu
from sdmobile.formats.graph import FileGraph, Tensor
from sdmobile.prediction.assess_device import ChosenUnit
from sdmobile.prediction.component_cost import ComponentCost
from sdmobile.prediction.kernels import Kernel, kernels_of
from sdmobile.prediction.kernels.google_gpu import ml_drift_kernels, tflite_gpu_kernels
from sdmobile.prediction.kernels.ml_drift_composites import plain_norm
from sdmobile.prediction.latency import predict

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
    saved = [_saving(name, launch, counted, device) for name, launch in _choices(device).items()]
    if any(part.recipe for part in counted):
        names = ", ".join(dict.fromkeys(part.recipe for part in counted if part.recipe))
        saved.append(_saving(f"recipe {names}", _uncompressed(device), counted, device))
    return tuple(saving for saving in saved if saving.without_seconds != saving.with_seconds)


def _saving(choice: str, launch: Launch, parts: Sequence[ComponentCost], device: ChosenUnit) -> Saving:
    model, with_it, without = device.model, 0.0, 0.0
    for part in parts:
        calls = max(1, part.calls)
        with_it += calls * part.prediction.seconds
        without += calls * sum(predict(launch(graph), model).seconds for graph in part.graphs)
    return Saving(choice, with_it, without)


def _choices(device: ChosenUnit) -> dict[str, Launch]:
    """What Google's engines launch without each of their choices; Core ML's are not known, and XNNPACK has none."""
    unit, rules = device.unit, device.rules or KernelRules()
    gpu, size = Gpu(unit.gpu or "other"), unit.element_bytes
    if unit.runtime in ("ml-drift", "ml-drift-webgpu"):
        engine = partial(ml_drift_kernels, gpu=gpu, element_bytes=size, rules=rules)
        return {
            "Winograd": partial(engine, winograd=None),
            "FlashAttention": partial(engine, rules=rules.without(flash=True)),
            "any fused softmax": partial(engine, rules=rules.without(flash=True, fused_softmax=True)),
            "norms as one kernel": partial(engine, instead=dict.fromkeys((GROUP_NORM, RMS_NORM), plain_norm)),
        }
    if unit.runtime == "tflite-gpu":
        return {"Winograd": partial(tflite_gpu_kernels, gpu=gpu, element_bytes=size, winograd=None)}
    return {}


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
