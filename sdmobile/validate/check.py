"""Compare a bundle with float32 torch: each component, whole trajectories, and the pictures they end in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError
from sdmobile.validate.bundle import Bundle, open_bundle
from sdmobile.validate.parity import check_component, compare_runs, describe
from sdmobile.validate.recording import DEFAULT_MAX_SAMPLES, DEFAULT_PROMPTS, Recording, record
from sdmobile.validate.results import ERROR, NOT_RUN, ComponentCheck, TrajectoryCheck, ValidationReport
from sdmobile.validate.sampling import (
    DEFAULT_GUIDANCE_SCALE,
    DEFAULT_STEPS,
    PipelineSpec,
    SampleRequest,
    SampleResult,
    sample_all,
)
from sdmobile.validate.thresholds import Thresholds

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.validate.runners import Runner

NEEDED_FOR_SAMPLING = ("text_encoder", "unet", "vae_decoder")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ValidationOptions:
    """How thorough validation is.

    Args:
        reference: the source checkpoint, None for the one that ships with sdmobile.
        prompts: sampled whole, each with its own seed.
        steps: scheduler steps.
        seed: seed of the first prompt; the next have the next seeds.
        guidance_scale: classifier-free guidance scale, None for the bundle's own.
        scheduler: short name, None for the checkpoint's own.
        components: which to check, None for all of the bundle.
        runtime: "auto" for every runtime of the target that this machine has, or one name.
        max_samples: most recorded inputs per component.
        trajectory: sample whole pictures with the bundle's runtimes.
        thresholds: what must be reached.
        threads: CPU threads of the runtime.
        recording_dir: where recorded inputs are saved, None for nowhere.
    """

    reference: Path | None = None
    prompts: tuple[str, ...] = DEFAULT_PROMPTS
    steps: int = DEFAULT_STEPS
    seed: int = 0
    guidance_scale: float | None = None
    scheduler: str | None = None
    components: tuple[str, ...] | None = None
    runtime: str = "auto"
    max_samples: int = DEFAULT_MAX_SAMPLES
    trajectory: bool = True
    thresholds: Thresholds = field(default_factory=Thresholds)
    threads: int | None = None
    recording_dir: Path | None = None

    def requests(self) -> tuple[SampleRequest, ...]:
        """Returns the pictures to sample."""
        scale = DEFAULT_GUIDANCE_SCALE if self.guidance_scale is None else self.guidance_scale
        return tuple(
            SampleRequest(prompt, "", self.steps, (self.seed + i) % 2**32, scale, self.scheduler)
            for i, prompt in enumerate(self.prompts)
        )


@dataclass
class Validation:
    """The report and the pictures that belong to it.

    Args:
        report: all figures.
        images: decoder outputs [1, 3, H, W] by prompt index, then by "torch" or runtime.
    """

    report: ValidationReport
    images: list[dict[str, NDArray[np.float32]]]


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
    from sdmobile.validate.reference import resolve_reference
    from sdmobile.validate.runners import TorchRunner, bundle_runner, validation_runtimes

    started = time.perf_counter()
    tell = progress or (lambda _what, _done, _all: None)
    bundle = open_bundle(folder)
    wanted = _wanted(bundle, options.components)
    names = validation_runtimes(bundle.target) if options.runtime == "auto" else (options.runtime,)
    runners = [bundle_runner(bundle, name, options.threads) for name in names]
    checkpoint = resolve_reference(bundle, options.reference)
    spec = PipelineSpec.from_bundle(bundle)
    if options.guidance_scale is None:
        options = replace(options, guidance_scale=spec.guidance_scale)
    why_not = _why_no_trajectory(bundle, options)
    recording = record(
        TorchRunner(checkpoint, bundle.geometry),
        spec,
        options.requests(),
        wanted,
        options.max_samples,
        why_not is None,
        lambda done, total: tell("sampling with torch", done, total),
    )
    if options.recording_dir is not None:
        recording.save(options.recording_dir)
    components: list[ComponentCheck] = []
    for runner in runners:
        components += _components(runner, bundle, wanted, recording, options, tell)
    trajectories: list[TrajectoryCheck] = []
    images: list[dict[str, NDArray[np.float32]]] = [{"torch": run.image} for run in recording.runs]
    for runner in runners:
        checks, pictures = _trajectories(runner, spec, options, recording.runs, why_not, tell)
        trajectories += checks
        for index, picture in pictures.items():
            images[index][runner.name] = picture
    report = ValidationReport(
        target=bundle.target,
        source=_source(checkpoint),
        thresholds=options.thresholds,
        settings=_settings(options, spec),
        components=tuple(components),
        trajectories=tuple(trajectories),
        seconds=time.perf_counter() - started,
        versions=_versions(),
    )
    return Validation(report, images)


def _components(
    runner: Runner,
    bundle: Bundle,
    wanted: Sequence[str],
    recording: Recording,
    options: ValidationOptions,
    tell: Progress,
) -> list[ComponentCheck]:
    checks = []
    for index, name in enumerate(bundle.components):
        if name in wanted:
            tell(f"{name} on {runner.name}", index, len(bundle.components))
            checks.append(check_component(runner, name, recording.samples[name], options.thresholds))
        else:
            checks.append(ComponentCheck(name, runner.name, NOT_RUN, reason="not among --components"))
    return checks


def _trajectories(
    runner: Runner,
    spec: PipelineSpec,
    options: ValidationOptions,
    references: Sequence[SampleResult],
    why_not: str | None,
    tell: Progress,
) -> tuple[list[TrajectoryCheck], dict[int, NDArray[np.float32]]]:
    """Returns a check for each prompt and the pictures by prompt index."""
    requests = options.requests()

    def all_alike(status: str, reason: str) -> list[TrajectoryCheck]:
        return [TrajectoryCheck(r.prompt, r.seed, runner.name, status, reason=reason) for r in requests]

    if why_not is not None:
        return all_alike(NOT_RUN, why_not), {}
    try:
        runs = sample_all(
            runner,
            spec,
            requests,
            on_step=lambda done, total: tell(f"sampling with {runner.name}", done, total),
            release=True,
        )
    except Exception as error:
        return all_alike(ERROR, describe(error)), {}
    finally:
        runner.release()
    pairs = zip(references, runs, strict=True)
    checks = [compare_runs(reference, run, runner.name, options.thresholds) for reference, run in pairs]
    return checks, {index: run.image for index, run in enumerate(runs)}


def _wanted(bundle: Bundle, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    if asked is None:
        return tuple(bundle.components)
    unknown = [name for name in asked if name not in bundle.components]
    if unknown:
        raise UnsupportedError(
            f"--components names components of the bundle, which has {', '.join(bundle.components)}", ", ".join(unknown)
        )
    return tuple(name for name in bundle.components if name in asked)


def _why_no_trajectory(bundle: Bundle, options: ValidationOptions) -> str | None:
    if not options.trajectory:
        return "--no-trajectory"
    missing = [name for name in NEEDED_FOR_SAMPLING if name not in bundle.components]
    return f"the bundle has no {' and no '.join(missing)}" if missing else None


def _source(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"name": checkpoint.name, "content_hash": checkpoint.content_hash, "license": checkpoint.license}


def _settings(options: ValidationOptions, spec: PipelineSpec) -> dict[str, Any]:
    return {
        "prompts": list(options.prompts),
        "seeds": [request.seed for request in options.requests()],
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "guidance": spec.guidance,
        "scheduler": options.scheduler or spec.scheduler_config.get("_class_name"),
        "max_samples": options.max_samples,
        "runtime": options.runtime,
        "threads": options.threads,
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from sdmobile import __version__

    found = {"sdmobile": __version__}
    for name in ("torch", "diffusers", "numpy", "coremltools", "ai-edge-litert", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
