"""Compare a bundle with float32 torch: each component, whole trajectories, and the pictures they end in."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.basics.words import describe, nearest
from sdmobile.checkpoints.shapes64.obedience import has_captions
from sdmobile.errors import OutputError, ResourceError, UnsupportedError
from sdmobile.formats.bundle.file_list import check_file_list
from sdmobile.formats.bundle.reading import Bundle, open_bundle
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.recording import Recording, record
from sdmobile.reference.sampling import SampleResult, sample_all
from sdmobile.validate.checks import Checker, ComponentCheck, Status, TrajectoryCheck
from sdmobile.validate.options import ValidationOptions
from sdmobile.validate.parity import check_component, compare_runs
from sdmobile.validate.results import ValidationReport
from sdmobile.validate.thresholds import FLOAT32_RUNTIMES

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.families.family import Family
    from sdmobile.reference.overflow import OverflowScan
    from sdmobile.runtimes import Runner
    from sdmobile.validate.bisect.part import Culprit

_log = logging.getLogger("sdmobile.validate")
Progress = Callable[[str, int, int], None]


@dataclass
class Validation:
    """The report and the pictures that belong to it.

    Args:
        report: all figures.
        images: decoder outputs [1, 3, H, W] by prompt index, then by "torch" or runtime.
        manifest: of the bundle, as it was checked.
    """

    report: ValidationReport
    images: list[dict[str, NDArray[np.float32]]]
    manifest: dict[str, Any]


@dataclass(frozen=True)
class _Subject:
    """What is being validated, with what, against what."""

    bundle: Bundle
    checkpoint: Checkpoint
    spec: PipelineSpec
    options: ValidationOptions
    wanted: tuple[str, ...]
    why_no_trajectory: str | None
    tell: Progress


def validate_bundle(folder: Path, options: ValidationOptions, progress: Progress | None = None) -> Validation:
    """Checks a bundle against the checkpoint it was exported from.

    Args:
        folder: the bundle.
        options: how thoroughly.
        progress: sees (what, done, all).

    Raises:
        BundleError: the bundle is not whole.
        CheckpointError: the reference is missing or another checkpoint.
        UnsupportedError: an unknown component or runtime was asked for.
    """
    from sdmobile.runtimes import bundle_runner, validation_runtimes
    from sdmobile.validate.checkers import run_checkers

    started = time.perf_counter()
    bundle = open_bundle(folder)
    check_file_list(bundle)
    names = validation_runtimes(bundle.target) if options.runtime == "auto" else (options.runtime,)
    runners = [bundle_runner(bundle, name, options.threads) for name in names]
    subject = _subject(bundle, options, progress or (lambda _what, _done, _all: None))
    evidence = run_checkers(bundle, subject.wanted, Recording(), _evidence(subject))
    recording, reused = _recorded(subject)
    _keep_calls(subject, recording)
    components = [check for runner in runners for check in _components(subject, runner, recording)]
    trajectories: list[TrajectoryCheck] = []
    images: list[dict[str, NDArray[np.float32]]] = [{"torch": run.image} for run in recording.runs]
    for runner in runners:
        checks, pictures = _trajectories(subject, runner, recording.runs)
        trajectories += checks
        for index, picture in pictures.items():
            images[index][runner.name] = picture
    overflow = _overflow(subject, recording)
    culprits = _bisected(subject, components, recording)
    components = _with_causes(subject, components, recording, culprits)
    if checkers := _checkers(subject):
        subject.tell(f"checking by {', '.join(checkers)}", 0, 1)
    extras = run_checkers(bundle, subject.wanted, recording, checkers)
    report = ValidationReport(
        target=bundle.target,
        source=_source(subject.checkpoint),
        thresholds=options.thresholds,
        settings=_settings(subject.options, subject.spec) | {"recording_reused": reused},
        components=tuple(components),
        trajectories=tuple(trajectories),
        seconds=time.perf_counter() - started,
        versions=_versions(),
        extras=(*evidence, *extras),
        overflow=tuple(overflow),
        culprits=tuple(culprits),
    )
    return Validation(report, images, bundle.manifest)


def _subject(bundle: Bundle, options: ValidationOptions, tell: Progress) -> _Subject:
    from sdmobile.reference.resolve import reference_pipeline, resolve_reference

    wanted = _wanted(bundle, options.components)
    checkpoint = resolve_reference(bundle, options.reference, options.changes, options.controls)
    spec = reference_pipeline(bundle, checkpoint)
    reason = _why_no_trajectory(bundle, spec.family, options)
    return _Subject(bundle, checkpoint, spec, options.settled(spec), wanted, reason, tell)


def _checkers(subject: _Subject) -> dict[str, Checker]:
    """Returns what else is asked: what the options name, and the advice of a precision if that was asked for."""
    if not subject.options.precision:
        return dict(subject.options.checkers)
    from sdmobile.validate.gpu_precision import NAME, precision_checker

    return {**subject.options.checkers, NAME: precision_checker(subject.checkpoint, subject.options.thresholds)}


def _evidence(subject: _Subject) -> dict[str, Checker]:
    """Returns what looks at stored weights and at what an app reads; nothing is run for it."""
    from sdmobile.validate.app_files import app_file_checkers
    from sdmobile.validate.weights import weights_checker

    weights = weights_checker(subject.checkpoint, subject.tell)
    return {**app_file_checkers(subject.checkpoint, subject.spec), "weights": weights}


def _recorded(subject: _Subject) -> tuple[Recording, bool]:
    """Returns the reference's calls and runs, from the cache where they are there, and whether they were."""
    from sdmobile.reference.recording_cache import RecordingCache, recording_key
    from sdmobile.reference.torch_runner import TorchRunner

    options, requests, whole = subject.options, subject.options.requests(), subject.why_no_trajectory is None

    def sample_with_torch() -> Recording:
        subject.tell("sampling with torch", 0, 1)
        return record(
            TorchRunner(subject.checkpoint, subject.spec.geometry),
            subject.spec,
            requests,
            subject.wanted,
            options.max_samples,
            whole,
            lambda done, total: subject.tell("sampling with torch", done, total),
        )

    source = subject.checkpoint.content_hash
    key = recording_key(source, subject.spec, requests, subject.wanted, options.max_samples, whole)
    recording, reused = RecordingCache(options.cache_dir).recorded(key, requests, sample_with_torch)
    if options.recording_dir is not None:
        recording.save(options.recording_dir)
    return recording, reused


def _keep_calls(subject: _Subject, recording: Recording) -> None:
    """Puts a few of the recorded calls into an Android bundle; where it cannot be written, a note says so."""
    if not subject.options.golden or subject.bundle.target != "android":
        return
    from sdmobile.validate.golden import write_golden
    from sdmobile.validate.golden_recording import golden_of

    try:
        write_golden(subject.bundle, golden_of(subject.bundle, subject.spec, recording))
    except (OutputError, ResourceError) as error:
        _log.warning("note: the recorded calls were not put into the bundle: %s", error)


def _components(subject: _Subject, runner: Runner, recording: Recording) -> list[ComponentCheck]:
    checks = []
    components = subject.bundle.components
    for index, (name, component) in enumerate(components.items()):
        if name in subject.wanted:
            subject.tell(f"{name} on {runner.name}", index, len(components))
            samples, limits = recording.samples[name], subject.options.thresholds
            checks.append(check_component(runner, name, samples, limits, is_compressed(component.record)))
        else:
            checks.append(ComponentCheck(name, runner.name, Status.NOT_RUN, reason="not among --components"))
    return checks


def _trajectories(
    subject: _Subject, runner: Runner, references: Sequence[SampleResult]
) -> tuple[list[TrajectoryCheck], dict[int, NDArray[np.float32]]]:
    """Returns a check for each prompt and the pictures by prompt index."""
    requests = subject.options.requests()

    def all_alike(status: Status, reason: str) -> list[TrajectoryCheck]:
        return [TrajectoryCheck(r.prompt, r.seed, runner.name, status, reason=reason) for r in requests]

    if subject.why_no_trajectory is not None:
        return all_alike(Status.NOT_RUN, subject.why_no_trajectory), {}
    subject.tell(f"sampling with {runner.name}", 0, 1)
    try:
        runs = sample_all(
            runner,
            PipelineSpec.from_bundle(subject.bundle),  # as an app runs it: what the bundle says is under test too
            requests,
            on_step=lambda done, total: subject.tell(f"sampling with {runner.name}", done, total),
            release=True,
        )
    except Exception as error:
        return all_alike(Status.ERROR, describe(error)), {}
    finally:
        runner.release()
    captions = has_captions(subject.checkpoint.name, subject.bundle.geometry)
    pairs = zip(references, runs, strict=True)
    limits = subject.options.thresholds
    checks = [compare_runs(reference, run, runner.name, limits, captions) for reference, run in pairs]
    return checks, {index: run.image for index, run in enumerate(runs)}


def _overflow(subject: _Subject, recording: Recording) -> list[OverflowScan]:
    """Returns where the reference's values come near the largest float16 number, if that was asked for."""
    if not subject.options.overflow:
        return []
    from sdmobile.reference.overflow import scan_component

    scans = []
    for index, name in enumerate(subject.wanted):
        subject.tell(f"float16 range of {name}", index, len(subject.wanted))
        scans.append(scan_component(subject.checkpoint, subject.bundle, name, recording.samples[name]))
    return scans


def _bisected(subject: _Subject, checks: Sequence[ComponentCheck], recording: Recording) -> list[Culprit]:
    """Returns the smallest failing part of each component, if that was asked for.

    A component that passed is looked into as well, where its arithmetic is float32: a wrong weight in a layer of little
    weight hardly shows in the component's output, and plainly in its module's.
    """
    folder = subject.options.bisect_dir
    if folder is None:
        return []
    from sdmobile.validate.bisect import bisect_component

    culprits = []
    checked = [check for check in checks if check.status == Status.FAILED or _is_exact(subject, check)]
    for index, check in enumerate(checked):
        subject.tell(f"looking into {check.name}", index, len(checked))
        culprit = bisect_component(subject.bundle, subject.checkpoint, check, recording, folder)
        if check.status == Status.FAILED or culprit.reproduced:
            culprits.append(culprit)
    return culprits


def _with_causes(
    subject: _Subject, checks: Sequence[ComponentCheck], recording: Recording, culprits: Sequence[Culprit]
) -> list[ComponentCheck]:
    """Returns the checks; those that failed with the operation at fault, or with what LiteRT says by itself."""
    from sdmobile.validate.cause import with_causes, with_delegates

    failed = [check.name for check in checks if check.status == Status.FAILED]
    if failed:
        subject.tell(f"looking for the cause of {failed[0]}", 0, len(failed))
    explained = with_causes(subject.bundle, subject.checkpoint, checks, recording, culprits)
    return with_delegates(subject.bundle.components, explained, recording, subject.options.thresholds)


def _is_exact(subject: _Subject, check: ComponentCheck) -> bool:
    """Whether a check passed in float32 arithmetic on weights that were not compressed."""
    record = subject.bundle.components[check.component].record
    return check.status == Status.PASSED and check.runtime in FLOAT32_RUNTIMES and not is_compressed(record)


def _wanted(bundle: Bundle, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    if asked is None:
        return tuple(bundle.components)
    unknown = [name for name in asked if name not in bundle.components]
    if unknown:
        rule = f"--components names components of the bundle, which has {', '.join(bundle.components)}"
        raise UnsupportedError(rule, ", ".join(unknown), nearest(unknown[0], bundle.components))
    return tuple(name for name in bundle.components if name in asked)


def _why_no_trajectory(bundle: Bundle, family: Family, options: ValidationOptions) -> str | None:
    if not options.trajectory:
        return "--no-trajectory"
    missing = [name for name in family.sampling if name not in bundle.components]
    return f"the bundle has no {' and no '.join(missing)}" if missing else None


def _source(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"name": checkpoint.name, "content_hash": checkpoint.content_hash, "license": checkpoint.license}


def is_compressed(record: Mapping[str, Any]) -> bool:
    """Whether a component's record says that its weights have fewer bits than float16."""
    return bool(record.get("compression"))


def _settings(options: ValidationOptions, spec: PipelineSpec) -> dict[str, Any]:
    return {
        "prompts": list(options.prompts),
        "seeds": [request.seed for request in options.requests()],
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "guidance": spec.guidance.name,
        "scheduler": options.scheduler or spec.scheduler_config.get("_class_name"),
        "max_samples": options.max_samples,
        "runtime": options.runtime,
        "threads": options.threads,
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from sdmobile import __version__

    versions = {"sdmobile": __version__}
    for name in ("torch", "diffusers", "numpy", "coremltools", "ai-edge-litert", "onnxruntime"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
