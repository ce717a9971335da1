"""The ablation of rewrite rules with what can be measured on this machine: files, their error, their time.

states of the graph (rewrites/ablation) ─▶ each exported in a process of its own ─▶ run and timed in turns
                                                                                 └─▶ predicted for the phone
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError
from sdmobile.rewrites.ablation import BASELINE, AblationRow, ablate

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from sdmobile.formats.bundle.reading import BundleComponent
    from sdmobile.prediction.assess_device import ChosenUnit
    from sdmobile.reference.recording import RecordedSample
    from sdmobile.reference.subject import Subject
    from sdmobile.rewrites.options import RewriteOptions
    from sdmobile.rewrites.rule import Rule

Tell = Callable[[str], None]
Run = Callable[[], object]


@dataclass(frozen=True)
class Measured:
    """What was measured of one state.

    Args:
        file_operators: run-time operators in the exported file, None where no file was made.
        file_bytes: its size.
        file_db: least PSNR of the file against the float32 reference.
        milliseconds: of every timed run.
        clock: what was timed, such as "LiteRT on this CPU".
    """

    file_operators: int | None = None
    file_bytes: int | None = None
    file_db: float | None = None
    milliseconds: tuple[float, ...] = ()
    clock: str | None = None

    @property
    def median(self) -> float | None:
        """Median time in milliseconds."""
        return statistics.median(self.milliseconds) if self.milliseconds else None


@dataclass(frozen=True)
class Predicted:
    """What the latency model says of one state on the phone; nothing of it was measured.

    Args:
        device, unit: where.
        milliseconds: of one call; None where no file was made, or its graph cannot be predicted.
        low, high: the interval.
    """

    device: str
    unit: str
    milliseconds: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Ablation:
    """The whole table: one row per state, what was measured of it here, and what is predicted for the phone."""

    rows: tuple[AblationRow, ...]
    measured: tuple[Measured, ...]
    predicted: tuple[Predicted, ...] = ()

    def to_json(self) -> list[dict[str, Any]]:
        """Returns one JSON object per row; measured and predicted values are apart."""
        pairs = zip(self.rows, self.measured, strict=True)
        objects = [{**row.to_json(), "measured": {**asdict(m), "median_ms": m.median}} for row, m in pairs]
        for row, predicted in zip(objects, self.predicted, strict=False):
            row["predicted"] = asdict(predicted)
        return objects

    def waterfall(self, heading: str) -> str:
        """Returns a drawing of the predicted times as SVG, each rule beside what it takes off.

        Raises:
            UnsupportedError: nothing could be predicted.
        """
        from sdmobile.prediction.plots import waterfall_svg

        pairs = zip(self.rows, self.predicted, strict=False)
        steps = [(row.rule, 1e-3 * state.milliseconds) for row, state in pairs if state.milliseconds is not None]
        if not steps:
            raise UnsupportedError(
                "a plot of predictions needs a device with compute units", heading, "Leave --plot out"
            )
        return waterfall_svg(steps, f"{heading}: predicted")


@dataclass(frozen=True)
class AblationPlan:
    """How an ablation is made.

    Args:
        rules: in the order of application.
        options: what the user changed about the device's rules.
        files: export and run a file for every state.
        rounds: rounds of timing; 0 for none.
        repeats: timed runs a round.
        threads: CPU threads of the runtime.
        device: as it is named to processes that export, such as the path of a user's profile; None for the subject's.
    """

    rules: tuple[Rule, ...]
    options: RewriteOptions
    files: bool = True
    rounds: int = 3
    repeats: int = 5
    threads: int | None = None
    device: str | None = None


def run_ablation(subject: Subject, plan: AblationPlan, scratch: Path, tell: Tell) -> Ablation:
    """Makes the table for one component.

    Args:
        subject: the captured component.
        plan: how.
        scratch: folder for the files; they are left there.
        tell: sees what is under way.
    """
    from sdmobile.reference.component_inputs import as_tensors, recorded_samples

    tell("recording inputs")
    samples = recorded_samples(subject.checkpoint, subject.component, subject.geometry, subject.guidance)
    inputs = [as_tensors(subject.contract, sample) for sample in samples]
    rows: list[AblationRow] = []
    programs: dict[str, ExportedProgram] = {}
    for row, program in ablate(subject.program, plan.rules, inputs, subject.profile.target == "ios"):
        tell(f"{row.rule}: graph")
        rows.append(row)
        programs[row.rule] = program
    files = {row.rule: _export(subject, plan, row.rule, scratch, tell) for row in rows} if plan.files else {}
    judged = {name: _judge(subject, plan, file, samples) for name, file in files.items()}
    times, clock = _times(subject, plan, files, programs, samples, tell)
    empty = Measured()
    measured = (
        replace(judged.get(row.rule, empty), milliseconds=tuple(times.get(row.rule, ())), clock=clock) for row in rows
    )
    return Ablation(tuple(rows), tuple(measured), predictions(subject, [files.get(row.rule) for row in rows]))


def predictions(subject: Subject, files: Sequence[BundleComponent | None]) -> tuple[Predicted, ...]:
    """Predicts the phone's latency of every state with a file; empty where the device's units are not known."""
    from sdmobile.prediction.assess_device import choose_unit

    try:
        unit = choose_unit(subject.profile)
        unit.require(subject.profile.target)
    except UnsupportedError:
        return ()
    return tuple(_predicted(unit, file) for file in files) if any(files) else ()


def _predicted(unit: ChosenUnit, file: BundleComponent | None) -> Predicted:
    from sdmobile.formats.graph import read_graph
    from sdmobile.prediction.component_cost import predict_files

    empty = Predicted(unit.profile.name, unit.name)
    if file is None:
        return empty
    try:
        _, latency = predict_files([read_graph(file.path)], unit)
    except UnsupportedError:  # a category of kernels for which the profile has no efficiency
        return empty
    low, high = (None if bound is None else 1e3 * bound for bound in (latency.low, latency.high))
    return replace(empty, milliseconds=1e3 * latency.seconds, low=low, high=high)


def _export(subject: Subject, plan: AblationPlan, last: str, scratch: Path, tell: Tell) -> BundleComponent:
    """Exports the component with the rules up to `last`, by the usual path."""
    from sdmobile.basics.untrusted import inside
    from sdmobile.exporters.job import ExportJob
    from sdmobile.exporters.process import run_component
    from sdmobile.formats.bundle.reading import BundleComponent

    tell(f"{last}: file")
    names = [rule.name for rule in plan.rules]
    later = names if last == BASELINE else names[names.index(last) + 1 :]
    options = replace(plan.options, without=(*plan.options.without, *later))
    folder = scratch / f"{len(names) - len(later):02d}"
    folder.mkdir(parents=True, exist_ok=True)
    job = ExportJob(
        checkpoint=subject.checkpoint.path,
        component=subject.component,
        target=subject.profile.target,
        device=plan.device or subject.profile.name,
        guidance=subject.guidance,
        resolution=(subject.geometry.image_height, subject.geometry.image_width),
        out_dir=folder,
        rewrites=options,
    )
    record = run_component(job, folder, lambda _: None)
    return BundleComponent(subject.component, inside(folder, record["file"]), subject.contract, record)


def _runner(subject: Subject, plan: AblationPlan, file: BundleComponent) -> Any:
    from sdmobile.runtimes.choice import RUNTIMES, file_runner

    target = subject.profile.target
    return file_runner(target, {subject.component: file}, RUNTIMES[target][0], plan.threads)


def _judge(subject: Subject, plan: AblationPlan, file: BundleComponent, samples: Sequence[RecordedSample]) -> Measured:
    """Returns operators, size and error of a file."""
    from sdmobile.basics.metrics import psnr

    runner = _runner(subject, plan, file)
    outputs = [(sample.outputs, runner.run(subject.component, sample.inputs)) for sample in samples]
    runner.release()
    worst = min(psnr(expected[name], computed[name]) for expected, computed in outputs for name in expected)
    lowered = next(stage for stage in file.record["stages"] if stage["name"] == "lower")
    return Measured(lowered["operator_count"], file.record["bytes"], worst)


def _times(
    subject: Subject,
    plan: AblationPlan,
    files: dict[str, BundleComponent],
    programs: dict[str, ExportedProgram],
    samples: Sequence[RecordedSample],
    tell: Tell,
) -> tuple[dict[str, list[float]], str | None]:
    """Times every state: its file where a runtime of this machine runs it, else its graph in PyTorch."""
    if plan.rounds == 0:
        return {}, None
    sample = samples[-1]
    if files and subject.profile.target != "ios":  # there is no Core ML here to time
        loaders = {name: _file_loader(subject, plan, file, sample) for name, file in files.items()}
        clock = {"android": "LiteRT", "onnx": "ONNX Runtime"}[subject.profile.target]
    else:
        loaders = {name: _graph_loader(subject, program, sample) for name, program in programs.items()}
        clock = "PyTorch"
    return interleaved(loaders, plan.rounds, plan.repeats, tell), f"{clock} on this CPU"


def _file_loader(
    subject: Subject, plan: AblationPlan, file: BundleComponent, sample: RecordedSample
) -> Callable[[], Run]:
    def load() -> Run:
        runner = _runner(subject, plan, file)
        return lambda: runner.run(subject.component, sample.inputs)

    return load


def _graph_loader(subject: Subject, program: ExportedProgram, sample: RecordedSample) -> Callable[[], Run]:
    import torch

    from sdmobile.reference.component_inputs import as_tensors

    inputs = as_tensors(subject.contract, sample)

    def load() -> Run:
        module = torch.no_grad()(program.module(check_guards=False))
        return lambda: module(*inputs)

    return load


def interleaved(
    contenders: Mapping[str, Callable[[], Run]], rounds: int, repeats: int, tell: Callable[[str], None] | None = None
) -> dict[str, list[float]]:
    """Times several ways of doing the same in turns, so that the machine's moods fall on all of them alike.

    A round opens each contender in turn, runs it once to warm up, times `repeats` runs and closes it, so that only one
    is in memory at a time.

    Args:
        contenders: by name, a function that loads it and returns the function to time.
        rounds: how often each is opened.
        repeats: timed runs a round.
        tell: sees what is under way.

    Returns:
        The milliseconds of every timed run by contender.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, load in contenders.items():
            if tell is not None:
                tell(f"timing {name}, round {number + 1} of {rounds}")
            run = load()
            run()
            for _ in range(repeats):
                started = time.perf_counter()
                run()
                milliseconds[name].append(1e3 * (time.perf_counter() - started))
            del run
            gc.collect()
    return milliseconds
