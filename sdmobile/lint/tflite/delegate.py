"""Asks every rule about every node, in the order in which the runtime would."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from sdmobile.device_profiles.runtime_rules.tflite_operators import CUSTOM_OPERATORS, SUPPORT, GpuRuntime
from sdmobile.formats.errors import whole
from sdmobile.formats.tflite.model import Graph, Node, Tensor
from sdmobile.formats.tflite.names import module_of
from sdmobile.formats.tflite.reader import read_graph
from sdmobile.lint.engine import Engine
from sdmobile.lint.limits import Limits
from sdmobile.lint.report import Finding, LintReport
from sdmobile.lint.tflite import classic, ml_drift
from sdmobile.lint.tflite.element_types import check_element_types
from sdmobile.lint.tflite.engine_rules import engine_problems
from sdmobile.lint.tflite.lost_outputs import lost_outputs, wrong_paddings
from sdmobile.lint.tflite.memory import memory_findings
from sdmobile.lint.tflite.miscomputed import check_miscomputed
from sdmobile.lint.tflite.problem import CLASSIC, COMMIT, PARSERS, Problem, Problems
from sdmobile.lint.tflite.shared import check_shared

BASIS: dict[GpuRuntime, str] = {
    "ml-drift": f"rules read in {COMMIT}, compared with the accelerator of ai-edge-litert (docs/lint.md)",
    "tflite-gpu": f"rules read in {COMMIT}; not compared with a run",
}
_FIXES = {
    "BROADCAST_TO": "Let the operator that follows broadcast (a GroupNorm written with mean, subtract, multiply does; "
    "the rewrite rule group_norm writes it so), or use TILE; google-ai-edge/LiteRT#9191",
    "SQUEEZE": "Write it as RESHAPE",
    "EXPAND_DIMS": "Write it as RESHAPE",
    "GATHER_ND": "Write it as GATHER over one axis",
    "LOG_SOFTMAX": "Write it as SOFTMAX and LOG",
    "L2_NORMALIZATION": "Write it as MUL, SUM, RSQRT, MUL",
    "ARG_MIN": "Write it as NEG and ARG_MAX",
    "RELU_0_TO_1": "Write it as MINIMUM and RELU",
    "SPACE_TO_BATCH_ND": "Use the dilation of CONV_2D instead",
    "BATCH_TO_SPACE_ND": "Use the dilation of CONV_2D instead",
    "STABLEHLO_COMPOSITE": "Export with plain operators (--plain-ops)",
}
_GENERAL_FIX = "Write it with other operators before the export, or leave this part to the CPU"


def lint_tflite(path: Path, runtime: GpuRuntime, limits: Limits, engine: Engine) -> LintReport:
    """Predicts what a GPU runtime says to a `.tflite` file.

    Args:
        path: the file.
        runtime: "ml-drift" (LiteRT's CompiledModel) or "tflite-gpu" (the delegate of TensorFlow Lite).
        limits: what the device can hold.
        engine: the build of LiteRT and the GPU's maker.

    Returns:
        The report; every node that breaks a rule has one finding at least.

    Raises:
        FormatError: the file is missing, truncated or no `.tflite` file.
    """
    graph = read_graph(path)
    with whole(path):
        findings = [*_node_findings(graph, runtime), *memory_findings(graph, runtime, limits)]
        if runtime == "ml-drift":
            findings += _of_engine(graph, engine)
    return LintReport(str(path), runtime, BASIS[runtime], len(graph.nodes), tuple(findings))


def _node_findings(graph: Graph, runtime: GpuRuntime) -> Iterator[Finding]:
    halves = _stored_halves(graph)
    consumers: dict[int, list[Node]] = {}
    for node in graph.nodes:
        for tensor in node.inputs:
            if tensor is not None:
                consumers.setdefault(tensor.index, []).append(node)
    seen: list[Node] = []
    for node in graph.nodes:
        if node.op == "DEQUANTIZE" and node.outputs and node.outputs[0].index in halves:
            continue
        inputs = tuple(halves.get(t.index, t) if t else None for t in node.inputs)
        seen.append(dataclasses.replace(node, inputs=inputs))
        for problem in _problems(seen[-1], runtime, consumers):
            yield _finding(node, problem)
    if runtime == "ml-drift":
        for node, problem in (*lost_outputs(seen, graph.outputs), *wrong_paddings(seen)):
            yield _finding(node, problem)


def _stored_halves(graph: Graph) -> dict[int, Tensor]:
    """Returns, by the index of its dequantized form, every float16 constant; runtimes read those directly.

    Source: FP16GraphPartitionHelper in LiteRT tflite/delegates/utils.cc.
    """
    halves: dict[int, Tensor] = {}
    for node in graph.nodes:
        stored = node.input(0)
        if node.op == "DEQUANTIZE" and stored is not None and stored.constant and stored.dtype == "FLOAT16":
            halves[node.outputs[0].index] = stored
    return halves


def _problems(node: Node, runtime: GpuRuntime, consumers: dict[int, list[Node]]) -> list[Problem]:
    """Returns what the first rules that object say; later rules count on the earlier ones to hold."""
    own = ml_drift if runtime == "ml-drift" else classic
    steps: list[Problems] = [_known(node, runtime)]
    if node.op not in own.NOT_SHARED:
        steps.append(check_shared(node, "enhanced" if runtime == "ml-drift" else "standard"))
    if runtime == "ml-drift":
        steps += [ml_drift.check_ml_drift(node), check_element_types(node, runtime), check_miscomputed(node)]
    else:
        steps += [classic.check_classic(node, consumers), check_element_types(node, runtime)]
    for step in steps:
        problems = list(step)
        if problems:
            return problems
    return []


def _known(node: Node, runtime: GpuRuntime) -> Problems:
    source = PARSERS if runtime == "ml-drift" else CLASSIC
    if node.op not in SUPPORT[runtime]:
        detail = f"{runtime} has no {node.op}"
        yield Problem("no-such-operator", detail, _FIXES.get(node.op, _GENERAL_FIX), source)
    elif node.op == "CUSTOM" and node.custom not in CUSTOM_OPERATORS[runtime]:
        yield Problem("no-such-operator", f"{runtime} has no custom operator {node.custom}", _GENERAL_FIX, source)
    elif (newest := SUPPORT[runtime][node.op]) is not None and node.version > newest:
        yield Problem(
            "version",
            f"version {node.version}; {runtime} takes {newest} at most",
            "Export for an older runtime, or without the feature that raised the version (often a quantised type)",
            source,
        )


def _of_engine(graph: Graph, engine: Engine) -> Iterator[Finding]:
    for node, finding in engine_problems(graph, engine):
        yield finding if node is None else _placed(node, finding)


def _finding(node: Node, problem: Problem) -> Finding:
    return _placed(node, Finding(problem.severity, problem.rule, problem.detail, problem.fix, problem.source))


def _placed(node: Node, finding: Finding) -> Finding:
    """Returns a finding with the node that it is about."""
    return dataclasses.replace(
        finding,
        op=node.custom or (f"{node.op} {node.composite.name}" if node.composite else node.op),
        node=str(node.index),
        version=node.version,
        shapes={
            "inputs": ["none" if tensor is None else str(tensor) for tensor in node.inputs],
            "outputs": [str(tensor) for tensor in node.outputs],
        },
        module=module_of(node),
    )
