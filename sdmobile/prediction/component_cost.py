"""What one component costs on a compute unit: its kernels, one call of all its files, and the memory of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sdmobile.formats.graph import FileGraph
from sdmobile.prediction.assess_device import ChosenUnit
from sdmobile.prediction.kernels import Kernel, kernels_of
from sdmobile.prediction.latency import FirstRun, Prediction, predict
from sdmobile.prediction.memory_budget import ComponentMemory, component_memory
from sdmobile.prediction.precision_cost import PrecisionCost, precision_costs


@dataclass(frozen=True)
class ComponentCost:
    """One component.

    Args:
        name: canonical name.
        graphs: of its files, in order; a component in chunks has several.
        kernels: of each file.
        prediction: one call of all its files.
        memory: of each file.
        calls: in one image; 0 for a component that no image needs.
        recipe: name of the recipe that compressed its weights, None for none.
        precisions: one call at each precision that an app can ask for; empty where there is no choice.
    """

    name: str
    graphs: tuple[FileGraph, ...]
    kernels: tuple[tuple[Kernel, ...], ...]
    prediction: Prediction
    memory: tuple[ComponentMemory, ...]
    calls: int
    recipe: str | None = None
    precisions: tuple[PrecisionCost, ...] = field(default=())

    @property
    def file_bytes(self) -> int:
        """Size of its files."""
        return sum(graph.file_bytes for graph in self.graphs)

    def to_json(self, count: int) -> dict[str, Any]:
        """Returns a JSON object; all of it is predicted but the sizes of the files."""
        return {
            **self.prediction.to_json(count),
            "calls_per_image": self.calls,
            "precisions": {one.precision: one.to_json() for one in self.precisions},
            "files": [
                {
                    "bytes": graph.file_bytes,
                    "weights_stored": memory.stored,
                    "weights_in_memory": memory.resident,
                    "arena": memory.activations.arena,
                    "arena_naive": memory.activations.naive,
                    "arena_lower_bound": memory.activations.lower_bound,
                    "peak": memory.peak,
                }
                for graph, memory in zip(self.graphs, self.memory, strict=True)
            ],
        }


def component_cost(
    name: str, graphs: tuple[FileGraph, ...], device: ChosenUnit, calls: int, recipe: str | None = None
) -> ComponentCost:
    """Returns the cost of one component.

    Args:
        name: canonical name.
        graphs: of its files.
        device: the device and its unit.
        calls: in one image.
        recipe: that compressed its weights.
    """
    kernels, prediction = predict_files(graphs, device)
    labels = [name] if len(graphs) == 1 else [f"{name} {i + 1}/{len(graphs)}" for i in range(len(graphs))]
    held = [
        component_memory(label, graph, device.storage, device.weights_held, files)
        for label, graph, files in zip(labels, graphs, kernels, strict=True)
    ]
    costs = precision_costs(graphs, device)
    return ComponentCost(name, graphs, kernels, prediction, tuple(held), calls, recipe, costs)


def predict_files(graphs: Sequence[FileGraph], device: ChosenUnit) -> tuple[tuple[tuple[Kernel, ...], ...], Prediction]:
    """Returns the kernels of files that run one after the other, and the prediction for all of them."""
    kernels = tuple(kernels_of(graph, device.unit, device.rules) for graph in graphs)
    return kernels, joined([predict(launched, device.model) for launched in kernels])


def joined(predictions: Sequence[Prediction]) -> Prediction:
    """Returns the prediction for calls one after the other; their errors are taken as common, so bounds add up."""

    def total(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    return Prediction(
        unit=predictions[0].unit,
        times=tuple(time for prediction in predictions for time in prediction.times),
        seconds=sum(prediction.seconds for prediction in predictions),
        low=total([prediction.low for prediction in predictions]),
        high=total([prediction.high for prediction in predictions]),
        fixed=sum(prediction.fixed for prediction in predictions),
        first_run=FirstRun(
            total([prediction.first_run.load for prediction in predictions]),
            total([prediction.first_run.compile for prediction in predictions]),
        ),
    )
