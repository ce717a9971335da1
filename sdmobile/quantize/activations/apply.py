"""Compresses one Core ML package to eight-bit weights and, where the gate allows, activations.

recorded calls ─▶ ranges ─▶ each layer alone against its gate ─▶ all together
    ─▶ int8 weights, quantize/dequantize pairs ─▶ read back
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.basics.metrics import psnr
from sdmobile.basics.untrusted import inside
from sdmobile.errors import SdmobileError
from sdmobile.formats.bundle.writing import Part
from sdmobile.quantize.activations.gate import Verdict, calibrate, jointly, judge, scales_of
from sdmobile.quantize.activations.layers import find_layers, operands, value_types
from sdmobile.quantize.activations.pairs import check_pairs, insert_pairs
from sdmobile.quantize.activations.ranges import METHODS
from sdmobile.quantize.activations.recorded import RecordedInputs, file_inputs
from sdmobile.quantize.activations.simulate import Simulation
from sdmobile.quantize.coreml.apply import compress_package
from sdmobile.quantize.records import CompressionRecord
from sdmobile.quantize.schemes import W8A8

if TYPE_CHECKING:
    from sdmobile.quantize.activations.gate import Scales
    from sdmobile.quantize.activations.ranges import Method
    from sdmobile.quantize.activations.simulate import Inputs
    from sdmobile.quantize.recipes import Recipe


def compress_with_activations(
    part: Part, file: str, out: Path, recipe: Recipe, recorded: RecordedInputs, deployment_target: str | None = None
) -> CompressionRecord:
    """Writes one package of a component by a recipe with W8A8.

    Args:
        part: the uncompressed component.
        file: which of its packages.
        out: the folder that gets it.
        recipe: what each layer becomes.
        recorded: calls to calibrate and to judge with.
        deployment_target: the oldest system that must load the file ("iOS17"); None to raise it where needed.

    Returns:
        What was done; `details["activations"]` has one line per layer.

    Raises:
        UnsupportedError, OutputError, ComponentError: as `compress_package`.
    """
    name = part.record["component"]
    calls = file_inputs(recorded.calibration(name), part, file)
    judged = file_inputs(recorded.judging(name), part, file)
    record = quantize_package(
        part.path(file), inside(out, file), recipe, name, list(calls), list(judged), deployment_target
    )
    details = dict(record.details or {})
    details["activations"] = {**details["activations"], "inputs": recorded.settings()}
    return replace(record, details=details)


def quantize_package(
    source: Path,
    out: Path,
    recipe: Recipe,
    component: str,
    calls: Sequence[Inputs],
    judged: Sequence[Inputs],
    deployment_target: str | None = None,
) -> CompressionRecord:
    """Writes a package whose layers compute in int8 where each alone keeps the component's output above its gate.

    Layers that are below their gate, or too many when all are quantised together (`gate.jointly`), keep float16
    activations and get int8 weights, as in Apple's recipe.

    Args:
        source: the `.mlpackage` folder.
        out: the folder to write.
        recipe: which layers are candidates, with which gates; other schemes are applied as always.
        component: canonical name.
        calls: inputs by name in the file, to take ranges from.
        judged: others, to judge with.
        deployment_target: as in `compress_package`.

    Returns:
        What was done.

    Raises:
        UnsupportedError: the recipe, or activations that are not finite.
        ComponentError: weights or scales read back are not what was meant.
    """
    started = time.perf_counter()
    simulation = Simulation(source)
    layers = find_layers(source, recipe, component)
    magnitudes = calibrate(simulation, calls, layers)
    scales: dict[Method, Scales] = {method: scales_of(simulation, magnitudes, method) for method in METHODS}
    floor = max((s.output_psnr for s in recipe.schemes() if isinstance(s, W8A8)), default=0.0)
    alone = judge(simulation, judged, layers, scales)
    verdicts = jointly(simulation, judged, alone, scales, floor)
    uses = _uses(simulation, verdicts, scales)
    record = compress_package(source, out, recipe, component, deployment_target, lambda spec: insert_pairs(spec, uses))
    try:
        check_pairs(out, uses, value_types(simulation.function))
    except SdmobileError:
        shutil.rmtree(out)
        raise
    passed = {weight for verdict in verdicts if verdict.passed for weight in verdict.layer.weights}
    tensors = [replace(t, scheme="w8a8") if t.name in passed and t.scheme != "fp16" else t for t in record.tensors]
    activations = {
        "pairs": len({value for scale in uses.values() for value in scale}),
        "joint_gate_db": floor,
        "dropped_by_joint_gate": sum(v.passed for v in alone) - sum(v.passed for v in verdicts),
        "output_psnr_db": _measured(simulation, out, judged),
        "layers": [verdict.to_json() for verdict in verdicts],
    }
    details = {**(record.details or {}), "activations": activations}
    return replace(record, tensors=tuple(tensors), seconds=time.perf_counter() - started, details=details)


def _uses(
    simulation: Simulation, verdicts: Sequence[Verdict], scales: Mapping[Method, Scales]
) -> dict[str, dict[str, float]]:
    """Returns what to quantise: by operation, its operands and their scales."""
    operations = {operation.name: operation for operation in simulation.function.operations}
    return {
        name: {value: scales[verdict.method][value] for value in operands(operations[name])}
        for verdict in verdicts
        if verdict.passed
        for name in verdict.layer.operations
    }


def _measured(simulation: Simulation, out: Path, judged: Sequence[Inputs]) -> list[float]:
    """Returns the PSNR in dB of the written package's output against the uncompressed one's, for each call."""
    written = Simulation(out)
    return [round(psnr(simulation.outputs(c, (), {}), written.outputs(c, (), {})), 2) for c in judged]
