"""One judgement before any work: `inspect`, `export --dry-run` and `export` ask the same question and get one answer.

    libraries ─▶ weights ─▶ values ─▶ tokenizer ─▶ sampler ─▶ app ─▶ sizes ─▶ memory ─▶ disk

What is refused here is refused before anything is made; what passes does not fail later for a reason that could be seen
now.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.libraries import is_installed, missing_library
from sdmobile.errors import MissingDependencyError, SdmobileError, UnsupportedError
from sdmobile.exporters.chunk_contracts import app_warnings
from sdmobile.families.component import Role

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.exporters.request import ExportRequest

# Modules that a target's exporter imports, and the extra that installs them.
_MODULES = {
    "ios": ("coremltools",),
    "android": ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
}
_HALF = 2  # bytes of a float16 weight


class Check(str, Enum):
    """What is looked at."""

    LIBRARIES = "libraries"
    WEIGHTS = "weights"
    VALUES = "values"
    TOKENIZER = "tokenizer"
    SAMPLER = "sampler"
    APP = "app"
    SIZES = "sizes"
    MEMORY = "memory"
    DISK = "disk"


class Level(str, Enum):
    """What follows from a finding."""

    REFUSED = "refused"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing that the judgement turned up.

    Args:
        check: what was looked at.
        level: what follows.
        text: for people, with what to do.
        error: what a command raises, of a refusal.
    """

    check: Check
    level: Level
    text: str
    error: SdmobileError | None = field(default=None, compare=False)


@dataclass(frozen=True)
class PreflightReport:
    """Whether one target can take a checkpoint as requested, and all that was found."""

    target: str
    findings: tuple[Finding, ...]

    @property
    def possible(self) -> bool:
        """Whether the export can be started here."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """What prevents the export."""
        return self._texts(Level.REFUSED)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user, or the app on the phone, has to know."""
        return self._texts(Level.WARNING)

    @property
    def about_bundle(self) -> tuple[str, ...]:
        """The warnings that hold on every machine."""
        machine = (Check.MEMORY, Check.DISK)
        return tuple(f.text for f in self.findings if f.level is Level.WARNING and f.check not in machine)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided without being asked."""
        return self._texts(Level.NOTE)

    def require(self) -> None:
        """Raises the first refusal, with the exit code that the same fault would have had later."""
        for finding in self.findings:
            if finding.error is not None:
                raise finding.error

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        return {
            "possible": self.possible,
            "problems": list(self.problems),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "checks": {check.value: worst.value for check in Check if (worst := self._worst(check)) is not None},
        }

    def _texts(self, level: Level) -> tuple[str, ...]:
        return tuple(finding.text for finding in self.findings if finding.level is level)

    def _worst(self, check: Check) -> Level | None:
        levels = [finding.level for finding in self.findings if finding.check is check]
        return next((level for level in Level if level in levels), None)


Finder = Callable[["Checkpoint", "ExportRequest", "frozenset[str]"], Iterator[tuple[Level, str]]]


def preflight(
    checkpoint: Checkpoint,
    request: ExportRequest,
    covered: frozenset[str] = frozenset(),
    streaming: bool = False,
) -> PreflightReport:
    """Judges whether a checkpoint can be exported as requested, without making anything.

    Weights are read once, to see that they are finite; everything else is headers, configurations and small files.

    Args:
        checkpoint: from open_checkpoint.
        request: target, device, components, resolution and so on.
        covered: models whose tensors were compared with a stored structure already, which takes the place of the
            libraries.
        streaming: their values are looked at when they are written, not now.
    """
    findings: list[Finding] = []
    for check, finder in _CHECKS.items():
        if streaming and check is Check.VALUES and covered.issuperset(_models(checkpoint, request)):
            continue
        try:
            findings += [Finding(check, level, text) for level, text in finder(checkpoint, request, covered)]
        except SdmobileError as error:
            findings.append(Finding(check, Level.REFUSED, error.message(), error))
        except ModuleNotFoundError as error:
            if (missing := missing_library(error)) is None:
                raise
            findings.append(Finding(check, Level.REFUSED, missing.message(), missing))
    return PreflightReport(request.target, tuple(findings))


def _libraries(checkpoint: Checkpoint, request: ExportRequest, covered: frozenset[str]) -> Iterator[tuple[Level, str]]:
    missing = [name for name in _MODULES[request.target] if not is_installed(name)]
    if missing and not covered.issuperset(_models(checkpoint, request)):
        raise MissingDependencyError(
            f"the target {request.target} needs libraries that are not installed",
            ", ".join(missing),
            f"Run: pip install 'sdmobile[{request.target}]'",
        )
    yield from ()


def _models(checkpoint: Checkpoint, request: ExportRequest) -> tuple[str, ...]:
    """Returns the models that the requested components are cut from."""
    family = checkpoint.family
    names = family.names if request.components is None else request.components
    return tuple(dict.fromkeys(family.component(name).model for name in names))


def _uncovered(checkpoint: Checkpoint, request: ExportRequest, covered: frozenset[str]) -> list[str]:
    return [name for name in _models(checkpoint, request) if name not in covered]


def _weights(checkpoint: Checkpoint, request: ExportRequest, covered: frozenset[str]) -> Iterator[tuple[Level, str]]:
    """Names, shapes and types against the module on the meta device."""
    for name in _uncovered(checkpoint, request, covered):
        if (error := checkpoint.misfits.get(name)) is not None:
            raise error
    yield from ()


def _values(checkpoint: Checkpoint, request: ExportRequest, covered: frozenset[str]) -> Iterator[tuple[Level, str]]:
    """Finiteness of every weight."""
    from sdmobile.checkpoints.arrays import check_values

    for name in _models(checkpoint, request):
        if name in covered:
            check_values(checkpoint, name)
        elif (error := checkpoint.unreadable.get(name)) is not None:
            raise error
    yield from ()


def _tokenizer(checkpoint: Checkpoint, request: ExportRequest, covered: frozenset[str]) -> Iterator[tuple[Level, str]]:
    """The tokenizer: readable, every token with a row in the embedding, and what the usual app makes of it."""
    from sdmobile.checkpoints.tokenizers import check_vocabulary, read_vocabulary, require_tokenizer

    folder = require_tokenizer(checkpoint)
    kind = checkpoint.family.tokenizer_kind
    vocabulary = read_vocabulary(folder, checkpoint.pad_token, checkpoint.added_tokens, kind)
    text = checkpoint.components[checkpoint.family.of_role(Role.TEXT_ENCODER)[0].model]
    check_vocabulary(vocabulary, int(text.config["vocab_size"]), folder)
    differences = checkpoint.family.tokenizer_differences(
        request.target, vocabulary.pad_token, vocabulary.eos_token, vocabulary.added
    )
    yield from ((Level.WARNING, line) for line in differences)


def _sampler(checkpoint: Checkpoint, request: ExportRequest, covered: frozenset[str]) -> Iterator[tuple[Level, str]]:
    """The scheduler with the usual number of steps, and the tables of `scheduler.json` where the target has one."""
    if checkpoint.undecided is not None:
        raise checkpoint.undecided
    family = checkpoint.family
    _check_steps(checkpoint, request)
    if request.target != "onnx" and request.target not in family.app_use:
        config = family.schedule_at(checkpoint.scheduler_config, checkpoint.latent_size)
        document = family.scheduler_document(config, checkpoint.scaling_factor, checkpoint.shift_factor)
        if "note" in document:
            yield Level.NOTE, str(document["note"])


def _check_steps(checkpoint: Checkpoint, request: ExportRequest) -> None:
    """Refuses a scheduler that does not take the usual number of steps; one that Diffusers alone knows is asked.

    Without Diffusers, that is left to an app that brings its own scheduler.
    """
    from sdmobile.families.kept_tables import check_loop, known_loop, unknown

    family, steps = checkpoint.family, checkpoint.usual_steps
    config = family.schedule_at(checkpoint.scheduler_config, checkpoint.latent_size)
    check_loop(config, family.loop_kind)
    known = known_loop(config, family.loop_kind)
    if known is not None and steps in known.lengths:
        return
    if is_installed("diffusers"):
        family.scheduler(config, None, steps)
    elif request.target not in family.app_use:
        raise unknown(config)


def _app(checkpoint: Checkpoint, request: ExportRequest, covered: frozenset[str]) -> Iterator[tuple[Level, str]]:
    """What the usual app has built in, and how many files of a denoiser it reads."""
    differences = checkpoint.family.app_differences(request.target, checkpoint)
    parts = app_warnings(request.target, request.chunks, checkpoint.family.app_chunks)
    yield from ((Level.WARNING, line) for line in (*differences, *parts))


def _sizes(checkpoint: Checkpoint, request: ExportRequest, covered: frozenset[str]) -> Iterator[tuple[Level, str]]:
    """Shapes that the request asks for, and the largest file that the target's format can be."""
    from sdmobile.device_profiles import default_profile
    from sdmobile.reference.geometry import geometry_for

    geometry_for(checkpoint, request.guidance, request.resolution)
    limit = default_profile("android").max_file_bytes if request.target == "android" else None
    for name in _models(checkpoint, request):
        size = _HALF * checkpoint.components[name].parameters
        if limit is not None and size > limit and not _is_cut(checkpoint, name, request):
            raise UnsupportedError(
                f"a .tflite file has at most {limit / 1e9:.2f} GB",
                f"{name} takes {size / 1e9:.2f} GB in float16",
                # One more than would do if all were of one size.
                f"Cut it: --chunks {ceil(size / limit) + 1}." if name == checkpoint.family.denoiser.model else None,
            )
    yield from ()


def _is_cut(checkpoint: Checkpoint, model: str, request: ExportRequest) -> bool:
    return request.chunks > 1 and checkpoint.family.denoiser.model == model


def _memory(checkpoint: Checkpoint, request: ExportRequest, covered: frozenset[str]) -> Iterator[tuple[Level, str]]:
    import psutil

    from sdmobile.exporters.estimates import planned_components

    largest = max(planned_components(checkpoint, request, covered), key=lambda component: component.peak_bytes)
    available = psutil.virtual_memory().available
    if largest.peak_bytes > available:
        yield (
            Level.WARNING,
            f"{largest.name} needs about {largest.peak_bytes / 2**30:.1f} GiB of memory to export, "
            f"{available / 2**30:.1f} GiB is free now: the export stops there without --ignore-limits"
            f"{_smaller(checkpoint, largest.name)}",
        )


def _smaller(checkpoint: Checkpoint, component: str) -> str:
    """Returns what makes a component need less memory, as the end of a sentence."""
    cut = component == checkpoint.family.denoiser.name
    return ", or with more --chunks, of which one is in memory at a time" if cut else ""


def _disk(checkpoint: Checkpoint, request: ExportRequest, covered: frozenset[str]) -> Iterator[tuple[Level, str]]:
    from sdmobile.exporters.cache import default_cache_dir
    from sdmobile.exporters.estimates import disk_bytes, planned_components

    components = planned_components(checkpoint, request, covered)
    kept = sum(component.kept_bytes for component in components)
    for what, folder, needed, follows in (
        ("the output", request.out_dir.absolute().parent, disk_bytes(components), "without --ignore-limits"),
        ("the cache", default_cache_dir().absolute(), kept, "or finished components are not kept for the next run"),
    ):
        free = shutil.disk_usage(existing(folder)).free
        if needed > free:
            need = f"{what} needs about {needed / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB is free in {folder}"
            yield Level.WARNING, f"{need}: make room, {follows}"


def existing(folder: Path) -> Path:
    """Returns the nearest folder above that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


_CHECKS: dict[Check, Finder] = {
    Check.LIBRARIES: _libraries,
    Check.WEIGHTS: _weights,
    Check.VALUES: _values,
    Check.TOKENIZER: _tokenizer,
    Check.SAMPLER: _sampler,
    Check.APP: _app,
    Check.SIZES: _sizes,
    Check.MEMORY: _memory,
    Check.DISK: _disk,
}
