"""Runs the files of an Android bundle through the GPU check, on inputs that were recorded with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.changes import UNCHANGED, Changes
from sdmobile.errors import EXIT_BELOW_THRESHOLD, EXIT_MISSING, EXIT_OK, UnsupportedError
from sdmobile.reference.recording import DEFAULT_PROMPTS, Recording, chosen_steps, record
from sdmobile.validate.gpu.chain import parts_of
from sdmobile.validate.gpu.check import DEFAULT_TIMEOUT, check_file, judge, run_on_gpu
from sdmobile.validate.gpu.verdict import GpuVerdict, Precision, Way
from sdmobile.validate.thresholds import COMPONENT_DB

if TYPE_CHECKING:
    from sdmobile.checkpoints.control import ControlFolder
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.reference.recording import RecordedSample

Combination = tuple[Way, Precision]
Progress = Callable[[str, int, int], None]
# The browser's software GPU has no float16; the wheel's has both.
COMBINATIONS: dict[str, tuple[Combination, ...]] = {
    "browser": (("browser", "float32"),),
    "wheel": (("wheel", "float32"), ("wheel", "float16")),
    "both": (("browser", "float32"), ("wheel", "float32"), ("wheel", "float16")),
}
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class GpuCheck:
    """The verdict on one file.

    Args:
        component: canonical component name; the file's name for a file alone.
        file: its name.
        reference: what the outputs were compared with: "torch", or "litert" on the CPU.
        verdict: what came of it.
    """

    component: str
    file: str
    reference: str
    verdict: GpuVerdict

    def to_json(self) -> dict[str, Any]:
        """Returns the fields, those of the verdict among them."""
        named = {"component": self.component, "file": self.file, "reference": self.reference}
        return {**named, **self.verdict.to_json()}


@dataclass(frozen=True)
class GpuReport:
    """All verdicts of one call.

    Args:
        checks: by component, way and precision.
    """

    checks: tuple[GpuCheck, ...]

    @property
    def missing(self) -> bool:
        """Whether a part of this machine was missing, or a file was accepted by no way that was tried."""
        accepted = {check.component for check in self.checks if check.verdict.passed}
        return any(check.verdict.missing or check.component not in accepted for check in self.checks)

    @property
    def failed(self) -> bool:
        """Whether a check ran and the file is not good for the GPU."""
        return any(check.verdict.failed for check in self.checks)

    @property
    def passed(self) -> bool:
        """Whether something was checked, nothing failed and nothing is missing."""
        return bool(self.checks) and not self.failed and not self.missing

    @property
    def exit_code(self) -> int:
        """0 if all is well, 3 if a file is not good for the GPU, 8 if a check could not run."""
        if self.failed:
            return EXIT_BELOW_THRESHOLD
        return EXIT_OK if self.passed else EXIT_MISSING

    def to_json(self) -> dict[str, Any]:
        """Returns the object that `sdmobile gpu-check --json` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "sdmobile-gpu-check",
            "passed": self.passed,
            "checks": [check.to_json() for check in self.checks],
        }


def check_tflite(
    path: Path,
    combinations: Sequence[Combination],
    timeout: float = DEFAULT_TIMEOUT,
    threshold_db: float = COMPONENT_DB,
    progress: Progress | None = None,
) -> GpuReport:
    """Checks one file on made-up inputs against LiteRT on the CPU.

    Args:
        path: the `.tflite` file.
        combinations: ways and precisions.
        timeout: seconds for each check.
        threshold_db: least PSNR in dB.
        progress: sees (what, done, all).

    Raises:
        UnsupportedError: not a `.tflite` file.
    """
    from sdmobile.validate.gpu.model_facts import read_model

    read_model(path)  # what is no file to check is refused before any work
    checks = []
    for index, (way, precision) in enumerate(combinations):
        if progress is not None:
            progress(f"{path.name} in {precision}, {way} way", index, len(combinations))
        verdict = check_file(path, way=way, precision=precision, timeout=timeout, repeat=2, threshold_db=threshold_db)
        checks.append(GpuCheck(path.stem, path.name, "litert", verdict))
    return GpuReport(tuple(checks))


def check_bundle_gpu(
    bundle: Bundle,
    recording: Recording,
    combinations: Sequence[Combination] = COMBINATIONS["both"],
    timeout: float = DEFAULT_TIMEOUT,
    threshold_db: float = COMPONENT_DB,
    components: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> GpuReport:
    """Checks the files of a bundle on recorded inputs against PyTorch.

    Args:
        bundle: an Android bundle.
        recording: inputs and outputs of the float32 reference. A component of which nothing is recorded is run on
            made-up inputs and compared with LiteRT on the CPU.
        combinations: ways and precisions.
        timeout: seconds for each check.
        threshold_db: least PSNR in dB of every sample.
        components: which to check, None for all.
        progress: sees (what, done, all).

    Raises:
        UnsupportedError: the bundle is not for Android.
    """
    if bundle.target != "android":
        raise UnsupportedError("the GPU check runs LiteRT files", f"a bundle for {bundle.target}")
    components = tuple(bundle.components) if components is None else components
    chosen = [file for name, file in bundle.components.items() if name in components]
    subjects = [part for file in chosen for part in parts_of(file, recording.samples.get(file.name, []))]
    jobs = [(subject, *combination) for subject in subjects for combination in combinations]
    checks = []
    for index, (subject, way, precision) in enumerate(jobs):
        if progress is not None:
            progress(f"{subject.name} in {precision}, {way} way", index, len(jobs))
        path, samples = subject.file.path, subject.samples
        if samples:
            verdict = _check_component(subject.file, samples, way, precision, timeout, threshold_db)
        else:
            verdict = check_file(path, way=way, precision=precision, timeout=timeout, threshold_db=threshold_db)
        checks.append(GpuCheck(subject.name, path.name, subject.reference, verdict))
    return GpuReport(tuple(checks))


def _check_component(
    file: BundleComponent,
    samples: Sequence[RecordedSample],
    way: Way,
    precision: Precision,
    timeout: float,
    threshold_db: float,
) -> GpuVerdict:
    inputs = [file.contract.to_target(sample.inputs) for sample in samples]
    repeat = 2 if len(samples) == 1 else 1
    run = run_on_gpu(file.path, inputs, way=way, precision=precision, timeout=timeout, repeat=repeat)
    canonical = tuple(file.contract.from_target(outputs) for outputs in run.outputs)
    return judge(replace(run, outputs=canonical), [sample.outputs for sample in samples], threshold_db)


def record_inputs(
    bundle: Bundle,
    components: tuple[str, ...],
    reference: Path | None,
    steps: int,
    max_samples: int,
    progress: Progress | None = None,
    changes: Changes = UNCHANGED,
    controls: Sequence[ControlFolder] = (),
) -> Recording:
    """Samples one picture with the bundle's checkpoint and keeps a few calls of each component.

    Args:
        bundle: the bundle; its guidance and resolution decide the shapes.
        components: what to record.
        reference: the checkpoint, None for the one that ships with sdmobile.
        steps: scheduler steps.
        max_samples: most calls per component.
        progress: sees (what, done, all).
        changes: that were put on top of the checkpoint.
        controls: the bundle's control networks, if it has some.

    Raises:
        CheckpointError: the reference is missing or another checkpoint.
    """
    from sdmobile.reference.resolve import reference_pipeline, resolve_reference
    from sdmobile.reference.sampling import SampleRequest
    from sdmobile.reference.torch_runner import TorchRunner

    checkpoint = resolve_reference(bundle, reference, changes, controls)
    spec = reference_pipeline(bundle, checkpoint)
    runner = TorchRunner(checkpoint, spec.geometry)
    known = tuple(name for name in components if name in runner.components)
    request = SampleRequest(DEFAULT_PROMPTS[0], "", steps, 0, spec.guidance_scale, None)

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("sampling with torch", done, total)

    tell(0, steps)
    return record(runner, spec, [request], known, max_samples, True, tell)


def limited(recording: Recording, most: int) -> Recording:
    """Returns the recording with at most so many samples per component, spread from the first to the last."""
    samples = {
        name: [kept[index] for index in sorted(chosen_steps(len(kept), most))] if kept else []
        for name, kept in recording.samples.items()
    }
    return Recording(samples, recording.runs)
