"""From a failing component to the part of its file that fails by itself.

    run PyTorch, keep every module's output ─▶ run the file, compare its values as they come, by module
      ─▶ first module whose value differs ─▶ cut it out of the file, between values that agree
      ─▶ run the part alone on PyTorch's exact values: does it still fail?
      ─▶ put PyTorch's value in its place: is a later module right then? ─▶ save it

The part is cut from the bytes that ship, so damage in the file is in the part. The reference is the graph before any
rewrite, so a wrong rewrite shows as well as a wrong conversion. A rewrite may leave no value in the file that is the
module's output, and what differs is another quantity (`stands_for_its_module`); the part then reaches to the next
module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sdmobile.basics.metrics import psnr
from sdmobile.basics.words import describe
from sdmobile.errors import UnsupportedError
from sdmobile.runtimes.mlprogram.precision import EVALUATORS
from sdmobile.validate.bisect.diagnose import epsilon_faults, weight_faults
from sdmobile.validate.bisect.graph import ModuleNames
from sdmobile.validate.bisect.match import Match, differences, layouts, match_modules, name_by_content, next_matched
from sdmobile.validate.bisect.part import Case, Culprit, Part
from sdmobile.validate.bisect.save import run_part, save_part

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.reference.recording import RecordedSample, Recording
    from sdmobile.validate.bisect.graph import ExportedGraph
    from sdmobile.validate.checks import ComponentCheck

LEAST_DB, MOST_DB = 30.0, 60.0  # a part is held to its component's limit, within these
OUTPUT_MODULE = "(output)"
MOST_LATER = 6  # later modules that are asked whether a difference matters


def bisect_component(
    bundle: Bundle, checkpoint: Checkpoint, check: ComponentCheck, recording: Recording, folder: Path | None
) -> Culprit:
    """Finds the smallest failing part of one component's file; problems become the culprit's reason.

    Args:
        bundle: the bundle that failed.
        checkpoint: its reference.
        check: the failed check.
        recording: the inputs.
        folder: gets a folder for the part; None saves nothing.
    """
    try:
        case = _case(bundle.components[check.component], checkpoint, check, worst_sample(check, recording))
        return bisect_case(case, check, folder)
    except Exception as error:
        return Culprit(check.component, check.runtime, reason=describe(error))


def worst_sample(check: ComponentCheck, recording: Recording) -> RecordedSample:
    """Returns the recorded call with the lowest PSNR; one that is not finite is lower than any."""
    levels = [row.metrics.psnr_db for row in check.samples]
    worst = min(range(len(levels)), key=lambda i: levels[i] if levels[i] == levels[i] else float("-inf"))
    return recording.samples[check.component][worst]


def _case(component: BundleComponent, checkpoint: Checkpoint, check: ComponentCheck, sample: RecordedSample) -> Case:
    from sdmobile.reference.component_inputs import as_tensors
    from sdmobile.reference.subject import captured
    from sdmobile.validate.bisect.reference import module_outputs, module_paths

    if component.chain:
        raise UnsupportedError(
            "a component that is bisected is one file", f"{len(component.chain)} parts", "Export it without --chunks."
        )
    contract = component.contract
    program = captured(checkpoint, contract, component.record)
    names = ModuleNames(module_paths(program))
    graph = open_graph(component, check.runtime, names)
    least_db = min(MOST_DB, max(LEAST_DB, check.limits.component_db if check.limits else LEAST_DB))
    inputs = contract.to_target(sample.inputs)
    outputs = module_outputs(program, as_tensors(contract, sample))
    rounds = EVALUATORS.get(check.runtime, "float32") != "float32"
    exact = open_graph(component, "evaluator", names) if rounds else graph
    name_by_content(graph, exact.values(inputs), outputs, MOST_DB)
    final: list[NDArray[Any]] = []
    matches = match_modules(graph, _keeping(graph.output, graph.values(inputs), final), outputs, least_db)
    with_output = [match for match in matches if match.value != graph.output]
    expected = target_output(component, sample)
    with_output.append(Match(OUTPUT_MODULE, graph.output, expected, psnr(expected, final[0])))
    return Case(graph, program, _by_value(graph, component, inputs), with_output, least_db)


def _keeping(
    name: str, values: Iterable[tuple[str, NDArray[Any]]], kept: list[NDArray[Any]]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Passes values on and keeps one of them."""
    for value, array in values:
        if value == name:
            kept.append(array)
        yield value, array


def open_graph(component: BundleComponent, runtime: str, names: ModuleNames) -> ExportedGraph:
    """Opens a component's file for looking into.

    Raises:
        UnsupportedError: the runtime's files cannot be cut.
    """
    if runtime in EVALUATORS:
        from sdmobile.validate.bisect.coreml import CoreMLGraph

        return CoreMLGraph(component.path, component.contract, names, EVALUATORS[runtime])
    if runtime == "litert":
        from sdmobile.validate.bisect.litert import LiteRTGraph

        return LiteRTGraph(component.path, component.contract, names)
    raise UnsupportedError(f"files are cut for the runtimes {', '.join(EVALUATORS)} and litert", runtime)


def target_output(component: BundleComponent, sample: RecordedSample) -> NDArray[np.float32]:
    """Returns PyTorch's output of a recorded call in the layout of the file."""
    spec = component.contract.outputs[0]
    return next(layouts(sample.outputs[spec.canonical], spec.shape))


def _by_value(
    graph: ExportedGraph, component: BundleComponent, inputs: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Returns the component's inputs by the names that the graph has for them."""
    names = [spec.name for spec in component.contract.inputs]
    return {value: inputs[name] for value, name in zip(graph.inputs, names, strict=True)}


def bisect_case(case: Case, check: ComponentCheck, folder: Path | None) -> Culprit:
    """Returns the first part that fails by itself and stands for its module, or the first that differs at all."""
    failing: tuple[Part, float] | None = None
    for match in differences(case.graph, case.matches, case.least_db):
        part = case.part(match)
        alone = run_part(case.graph, part)
        if alone >= case.least_db:
            failing = failing or (part, alone)
        elif stands_for_its_module(case, match):
            failing = part, alone
            break
    if failing is None:
        return Culprit(check.component, check.runtime, reason="every module's value agrees with PyTorch's")
    part, alone = failing
    place = None if folder is None else save_part(case.graph, part, folder / f"{check.component}-{check.runtime}")
    return Culprit(
        check.component,
        check.runtime,
        _blamed(part),
        tuple(op.name for op in part.piece.ops),
        part.piece.ops[-1].type if part.piece.ops else None,
        tuple(dict.fromkeys(op.module for op in part.piece.ops if op.module)),
        part.match.psnr_db,
        alone,
        not alone >= case.least_db,
        tuple(_faults(case, part)),
        None if place is None else str(place),
    )


def stands_for_its_module(case: Case, match: Match) -> bool:
    """Whether a value that differs is its module's output, and not another quantity of the module.

    A rewrite may compute a module in other steps and fold its last one into the next module: GroupNorm that divides by
    the largest magnitude first, with its scale moved on. Then no value of the file is the module's output, and the one
    that was matched with it, of the same shape, differs without anything being wrong. So the difference has to matter:
    PyTorch's value in its place must repair a later value that is wrong because of it. The component's output is what
    its contract says and needs no proof.

    Args:
        case: a recorded call on both sides.
        match: a module and the file's value that differs from its output.
    """
    if match.value == case.graph.output:
        return True
    for later in _later(case, match):
        part = case.part(later, {match.value: match.expected})
        if match.value not in part.piece.inputs:
            continue
        repaired = run_part(case.graph, part) >= case.least_db
        if repaired and not run_part(case.graph, case.part(later)) >= case.least_db:
            return True
    return False


def _later(case: Case, match: Match) -> Iterator[Match]:
    """Yields the matches that depend on one, the nearest first."""
    by_value = {other.value: other for other in case.matches}
    agreeing = {other.value: other.agrees(case.least_db) for other in case.matches}
    waiting, seen = [match.value], {match.value}
    while waiting and len(seen) <= MOST_LATER:
        following = next_matched(case.graph, waiting.pop(0), agreeing) - seen
        for value in (other.value for other in case.matches if other.value in following):
            seen.add(value)
            waiting.append(value)
            yield by_value[value]


def _blamed(part: Part) -> str:
    """Returns the module that a part ends in; that of its last operation where it ends in the component's output."""
    if part.match.module != OUTPUT_MODULE:
        return part.match.module
    return next((op.module for op in reversed(part.piece.ops) if op.module), OUTPUT_MODULE)


def _faults(case: Case, part: Part) -> list[str]:
    """Compares the constants of a part with the parameters and epsilons of the modules that it computes."""
    from sdmobile.validate.bisect.reference import module_epsilons, module_parameters

    modules = dict.fromkeys([_blamed(part), *(op.module for op in part.piece.ops if op.module)])
    constants = {name: array for op in part.piece.ops for name, array in case.graph.constants(op).items()}
    parameters = {k: v for module in modules for k, v in module_parameters(case.program, module).items()}
    faults = weight_faults(parameters, constants)
    for module in modules:
        own = {k: v for op in part.piece.ops if op.module == module for k, v in case.graph.constants(op).items()}
        faults += epsilon_faults(module_epsilons(case.program, module), own)
    return faults
