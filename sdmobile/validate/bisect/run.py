"""From a failing component to the part of its file that fails by itself.

    run PyTorch, keep every module's output ─▶ run the file, compare its values as they come, by module
      ─▶ first module whose value differs ─▶ cut it out of the file, between values that agree
      ─▶ run the part alone on PyTorch's exact values: does it still fail?
      ─▶ put PyTorch's value in its place: is a later module right then? ─▶ save it

The part is cut from the bytes that ship, so damage in the file is in the part. The reference is the graph before any
rewrite, so a wrong rewrite shows as well as a wrong conversion. A rewrite may leave no value in the file that is the
module's output, and what differs is another quantity (`standing.py`); the part then reaches to the next module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.basics.describe import describe
from sdmobile.basics.metrics import json_number, psnr
from sdmobile.errors import UnsupportedError
from sdmobile.runtimes.mlprogram.precision import EVALUATORS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.reference.recording import RecordedSample, Recording
    from sdmobile.validate.bisect.graph import ExportedGraph, Piece
    from sdmobile.validate.bisect.match import Match
    from sdmobile.validate.results import ComponentCheck

LEAST_DB, MOST_DB = 30.0, 60.0  # a part is held to its component's limit, within these
OUTPUT_MODULE = "(output)"


@dataclass(frozen=True)
class Culprit:
    """The smallest failing part that was found.

    Args:
        component: canonical name.
        runtime: where the component failed.
        module: path of the first module whose value differs, None if none was found.
        operations: names of the part's operations in the file.
        type: type of its last operation.
        modules: source modules of its operations.
        in_place_db: PSNR of the module's value in the file's own run.
        alone_db: PSNR of the part on PyTorch's exact values.
        reproduced: whether the part fails by itself.
        faults: what its constants say is wrong, in words.
        folder: where it was saved, None if there is nothing.
        reason: why nothing was found.
    """

    component: str
    runtime: str
    module: str | None = None
    operations: tuple[str, ...] = ()
    type: str | None = None
    modules: tuple[str, ...] = ()
    in_place_db: float = float("nan")
    alone_db: float = float("nan")
    reproduced: bool = False
    faults: tuple[str, ...] = ()
    folder: str | None = None
    reason: str | None = None

    @property
    def sentence(self) -> str:
        """The finding in one sentence."""
        where = f"{self.component} on {self.runtime}"
        if self.module is None:
            return f"{where}: no failing part was found: {self.reason}"
        saved = f". Saved in {self.folder}" if self.folder else ""
        return f"{where}: {self.finding}{saved}"

    def after(self, told: str) -> str:
        """Returns the sentence, without the finding where a text that goes before has it."""
        if self.folder is None or self.finding not in told:
            return self.sentence
        return f"{self.component} on {self.runtime}: the failing part is saved in {self.folder}"

    @property
    def finding(self) -> str:
        """What differs first, without where it was run and saved."""
        if self.module is None:
            return f"no failing part was found: {self.reason}"
        alone = f"{self.alone_db:.1f} dB by itself" if self.alone_db == self.alone_db else "not finite by itself"
        count = f"{len(self.operations)} operation" + ("s" if len(self.operations) != 1 else "")
        last = f" ending in {self.type} '{self.operations[-1]}'" if self.operations else ""
        others = [module for module in self.modules if module != self.module]
        beside = f", with {', '.join(others[:3])}{', …' if len(others) > 3 else ''}" if others else ""
        sure = "" if self.reproduced else ", which is not below its limit: the error builds up over the modules before"
        faults = f": {'; '.join(self.faults)}" if self.faults else ""
        return f"{self.module} differs first ({count}{last}{beside}, {alone}{sure}){faults}"

    def to_json(self) -> dict[str, Any]:
        """Returns the fields with null for what is not finite."""
        return {
            "component": self.component,
            "runtime": self.runtime,
            "module": self.module,
            "operations": list(self.operations),
            "type": self.type,
            "modules": list(self.modules),
            "in_place_db": json_number(self.in_place_db),
            "alone_db": json_number(self.alone_db),
            "reproduced": self.reproduced,
            "faults": list(self.faults),
            "folder": self.folder,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Case:
    """One recorded call that failed, on both sides."""

    graph: ExportedGraph
    program: ExportedProgram
    inputs: dict[str, NDArray[Any]]
    matches: Sequence[Match]
    least_db: float

    def part(self, match: Match, given: Mapping[str, NDArray[Any]] | None = None) -> Part:
        """Cuts the file between values that agree, or are given, and one that does not."""
        exact = {one.value: one.expected for one in self.matches if one.agrees(self.least_db)} | dict(given or {})
        piece = self.graph.piece(match.value, set(exact))
        return Part(match, piece, {name: exact.get(name, self.inputs.get(name)) for name in piece.inputs})  # pyright: ignore


@dataclass(frozen=True)
class Part:
    """A cut part with what goes in and what should come out.

    Args:
        match: the module that it ends in.
        piece: its operations.
        inputs: PyTorch's exact values for what it takes, by name in the file.
    """

    match: Match
    piece: Piece
    inputs: dict[str, NDArray[Any]]


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
        return _bisect(case, check, folder)
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
    from sdmobile.validate.bisect.match import Match, match_modules, name_by_content
    from sdmobile.validate.bisect.naming import ModuleNames
    from sdmobile.validate.bisect.reference import module_outputs, module_paths

    if component.chain:
        raise UnsupportedError(
            "a component that is bisected is one file", f"{len(component.chain)} parts", "Export it without --chunks."
        )
    contract = component.contract
    program = captured(checkpoint, contract)
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
    for found, array in values:
        if found == name:
            kept.append(array)
        yield found, array


def open_graph(component: BundleComponent, runtime: str, names: Any) -> ExportedGraph:
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
    from sdmobile.validate.bisect.match import layouts

    spec = component.contract.outputs[0]
    return next(layouts(sample.outputs[spec.canonical], spec.shape))


def _by_value(
    graph: ExportedGraph, component: BundleComponent, inputs: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Returns the component's inputs by the names that the graph has for them."""
    names = [spec.name for spec in component.contract.inputs]
    return {value: inputs[name] for value, name in zip(graph.inputs, names, strict=True)}


def _bisect(case: Case, check: ComponentCheck, folder: Path | None) -> Culprit:
    from sdmobile.validate.bisect.match import differences
    from sdmobile.validate.bisect.save import run_part, save_part
    from sdmobile.validate.bisect.standing import stands_for_its_module

    found: tuple[Part, float] | None = None
    for match in differences(case.graph, case.matches, case.least_db):
        part = case.part(match)
        alone = run_part(case.graph, part)
        if alone >= case.least_db:
            found = found or (part, alone)
        elif stands_for_its_module(case, match):
            found = part, alone
            break
    if found is None:
        return Culprit(check.component, check.runtime, reason="every module's value agrees with PyTorch's")
    part, alone = found
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


def _blamed(part: Part) -> str:
    """Returns the module that a part ends in; that of its last operation where it ends in the component's output."""
    if part.match.module != OUTPUT_MODULE:
        return part.match.module
    return next((op.module for op in reversed(part.piece.ops) if op.module), OUTPUT_MODULE)


def _faults(case: Case, part: Part) -> list[str]:
    """Compares the constants of a part with the parameters and epsilons of the modules that it computes."""
    from sdmobile.validate.bisect.diagnose import epsilon_faults, weight_faults
    from sdmobile.validate.bisect.reference import module_epsilons, module_parameters

    modules = dict.fromkeys([_blamed(part), *(op.module for op in part.piece.ops if op.module)])
    constants = {name: array for op in part.piece.ops for name, array in case.graph.constants(op).items()}
    parameters = {k: v for module in modules for k, v in module_parameters(case.program, module).items()}
    faults = weight_faults(parameters, constants)
    for module in modules:
        own = {k: v for op in part.piece.ops if op.module == module for k, v in case.graph.constants(op).items()}
        faults += epsilon_faults(module_epsilons(case.program, module), own)
    return faults
