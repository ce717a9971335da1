"""Which layers keep enough precision in eight bits: each is quantised alone and judged by the component's output.

Errors of layers that pass one by one add up, so that some are dropped until all others together are good enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.metrics import json_number, psnr
from sdmobile.quantize.activations.layers import Layer, value_types
from sdmobile.quantize.activations.ranges import METHODS, Magnitudes, Method, scale_for

if TYPE_CHECKING:
    from sdmobile.quantize.activations.simulate import Inputs, Simulation

Scales = Mapping[str, float]
"""Name of an activation to its scale."""


@dataclass(frozen=True)
class Verdict:
    """One line of the table.

    Args:
        layer: which one.
        psnr_db: by method of clipping, the PSNR of the component's output when this layer alone is quantised: the worst
            over the calls, each as `basics.metrics.psnr`.
        method: the one chosen for its activations.
        passed: whether the PSNR of that method reaches the layer's gate.
    """

    layer: Layer
    psnr_db: dict[Method, float]
    method: Method
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """Returns the line as the manifest keeps it."""
        return {
            "layer": self.layer.name,
            "kind": self.layer.kind,
            "operations": len(self.layer.operations),
            "psnr_db": {
                name: None if (db := json_number(value)) is None else round(db, 2)
                for name, value in self.psnr_db.items()
            },
            "method": self.method,
            "gate_db": self.layer.gate_db,
            "decision": "w8a8" if self.passed else "w8" if self.layer.weights else "fp16",
        }


def calibrate(simulation: Simulation, calls: Iterable[Inputs], layers: Sequence[Layer]) -> dict[str, Magnitudes]:
    """Runs the uncompressed program and counts the magnitudes of every activation that a layer takes.

    Args:
        simulation: the program.
        calls: inputs by name in the file, one call after the other; nothing of them is kept.
        layers: whose activations.

    Returns:
        By name of the value.

    Raises:
        UnsupportedError: an activation is not finite.
    """
    wanted = {name for layer in layers for name in layer.activations}
    magnitudes = {name: Magnitudes() for name in wanted}
    inputs = {item.name for item in simulation.function.inputs} & wanted
    for call in calls:
        for index, (step, values) in enumerate(simulation.exact(call)):
            made = {output.name for output in step.operation.outputs} & wanted
            for name in made | (inputs if index == 0 else set()):
                magnitudes[name].add(values[name])
    return magnitudes


def scales_of(simulation: Simulation, magnitudes: Mapping[str, Magnitudes], method: Method) -> dict[str, float]:
    """Returns the scale of every activation for one method of clipping."""
    types = value_types(simulation.function)
    return {name: scale_for(counted.clip(method), types[name]) for name, counted in magnitudes.items()}


def judge(
    simulation: Simulation, calls: Sequence[Inputs], layers: Sequence[Layer], scales: Mapping[Method, Scales]
) -> tuple[Verdict, ...]:
    """Quantises one layer at a time, weights and activations, and compares the component's output with the exact one.

    The gates are those of Apple's ml-stable-diffusion (README, "Activation Quantization"; activation_quantization.py),
    with its definition of PSNR. Apple compares the final latents of whole runs and takes the mean over prompts; here it
    is the output of single calls of recorded runs, of which many layers can be measured in the time of one run, and the
    worst call counts: an attention whose probabilities leave the calibrated range in one picture has a good mean.

    A method of clipping is chosen for all layers together that share an activation, since it has one scale: the one
    with the least sum of their mean squared errors.

    Args:
        simulation: the uncompressed program.
        calls: inputs by name in the file, others than those of the calibration.
        layers: candidates.
        scales: by method.
    """
    methods: list[Method] = [method for method in METHODS if method in scales]
    alternatives = [scales[method] for method in methods]
    decibels: dict[str, list[list[float]]] = {layer.operations[0]: [[] for _ in methods] for layer in layers}
    squares = {layer.operations[0]: np.zeros(len(methods)) for layer in layers}
    for call in calls:
        exact = simulation.outputs(call, (), {})
        for layer, number, output in simulation.one_at_a_time(call, layers, alternatives):
            decibels[layer.operations[0]][number].append(psnr(exact, output))
            squares[layer.operations[0]][number] += float(np.mean(np.square(exact.astype(np.float64) - output)))
    chosen: dict[str, Method] = {}
    for group in sharing(layers):
        best = int(np.argmin(np.sum([squares[layer.operations[0]] for layer in group], axis=0)))
        chosen.update((layer.operations[0], methods[best]) for layer in group)
    return tuple(_verdict(layer, methods, decibels, chosen) for layer in layers)


def sharing(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Returns the layers in groups that share activations, directly or through others."""
    groups: list[tuple[set[str], list[Layer]]] = []
    for layer in layers:
        names, members = set(layer.activations), [layer]
        touching = [group for group in groups if group[0] & names]
        for group in touching:
            names |= group[0]
            members = group[1] + members
            groups.remove(group)
        groups.append((names, members))
    return [members for _, members in groups]


def _verdict(
    layer: Layer, methods: Sequence[Method], decibels: Mapping[str, list[list[float]]], chosen: Mapping[str, Method]
) -> Verdict:
    key = layer.operations[0]
    worst: dict[Method, float] = {
        m: min(values, default=math.nan) for m, values in zip(methods, decibels[key], strict=True)
    }
    db = worst[chosen[key]]
    return Verdict(layer, worst, chosen[key], not math.isnan(db) and db >= layer.gate_db)


def jointly(
    simulation: Simulation,
    calls: Sequence[Inputs],
    verdicts: Sequence[Verdict],
    scales: Mapping[Method, Scales],
    floor_db: float,
) -> tuple[Verdict, ...]:
    """Drops the layers with the lowest PSNR of their own until the output of all others together reaches a floor.

    Args:
        simulation: the uncompressed program.
        calls: the judged inputs, by name in the file.
        verdicts: of the layers one by one.
        scales: by method.
        floor_db: least PSNR in dB of the worst call.

    Returns:
        The verdicts, with `passed` false for what was dropped.
    """
    order = sorted((v for v in verdicts if v.passed), key=lambda v: v.psnr_db[v.method], reverse=True)
    exact = [simulation.outputs(call, (), {}) for call in calls]

    def worst(count: int) -> float:
        layers = [verdict.layer for verdict in order[:count]]
        merged = {name: scales[v.method][name] for v in order[:count] for name in v.layer.activations}
        outputs = (simulation.outputs(call, layers, merged) for call in calls)
        return min(psnr(before, after) for before, after in zip(exact, outputs, strict=True))

    kept = {id(verdict) for verdict in order[: most(len(order), lambda count: worst(count) >= floor_db)]}
    return tuple(replace(verdict, passed=id(verdict) in kept) for verdict in verdicts)


def most(limit: int, holds: Callable[[int], bool]) -> int:
    """Returns the largest count up to a limit for which a condition holds; more can only break it, 0 always holds."""
    if holds(limit):
        return limit
    low, high = 0, limit  # holds(low), not holds(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
