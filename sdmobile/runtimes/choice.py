"""Which runtimes can run which target's files, and which one is meant by "auto"."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.basics.words import nearest
from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.runtimes.base import FileRunner

RUNTIMES: dict[str, tuple[str, ...]] = {
    "ios": ("evaluator", "evaluator-fp16", "evaluator-fp16acc", "coreml", "coreml-cpu", "coreml-gpu", "coreml-ne"),
    "android": ("litert",),
    "onnx": ("ort",),
}
ASKED_FOR = ("evaluator-fp16acc", "coreml")  # run by name only: a stress test, and Core ML's own choice of units


def default_runtime(target: str) -> str:
    """Returns what `auto` means: the real runtime where this machine has it."""
    if target == "ios" and sys.platform == "darwin":
        return "coreml"
    return RUNTIMES[target][0]


def validation_runtimes(target: str) -> tuple[str, ...]:
    """Returns the runtimes of a target that validation uses on this machine: on macOS, Core ML per compute unit."""
    real = sys.platform == "darwin"
    names = (name for name in RUNTIMES[target] if name not in ASKED_FOR)
    return tuple(name for name in names if real or not name.startswith("coreml"))


def bundle_runner(bundle: Bundle | Path, runtime: str = "auto", threads: int | None = None) -> FileRunner:
    """Returns the runner of a bundle's files.

    Args:
        bundle: an opened bundle, or its folder.
        runtime: "auto" or one of `RUNTIMES` for the bundle's target.
        threads: CPU threads, None for the runtime's choice.

    Raises:
        UnsupportedError: the runtime does not run this target's files, or not on this machine.
    """
    if isinstance(bundle, Path):
        from sdmobile.formats.bundle.reading import open_bundle

        bundle = open_bundle(bundle)
    name = default_runtime(bundle.target) if runtime == "auto" else runtime
    if name not in RUNTIMES[bundle.target]:
        known = ("auto", *RUNTIMES[bundle.target])
        rule = f"the runtime of the target {bundle.target} is one of {', '.join(known)}"
        raise UnsupportedError(rule, runtime, nearest(runtime, known))
    return file_runner(bundle.target, bundle.components, name, threads)


def file_runner(
    target: str, components: Mapping[str, BundleComponent], runtime: str, threads: int | None = None
) -> FileRunner:
    """Returns the runner of exported files, whether or not they are in a bundle.

    Args:
        target: "ios", "android" or "onnx".
        components: the files by canonical name.
        runtime: one of `RUNTIMES` for the target.
        threads: CPU threads, None for the runtime's choice.
    """
    if target == "ios":
        from sdmobile.runtimes.coreml import COMPUTE_UNITS, CoreMLRunner, MLProgramRunner

        if runtime in COMPUTE_UNITS:
            return CoreMLRunner(components, runtime)
        return MLProgramRunner(components, runtime)
    if target == "android":
        from sdmobile.runtimes.litert import LiteRTRunner

        return LiteRTRunner(components, threads)
    from sdmobile.runtimes.onnx import OnnxRunner

    return OnnxRunner(components, threads)
