"""Core ML packages: through the project's evaluator anywhere, through Core ML itself on macOS."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sdmobile.errors import MissingDependencyError, UnsupportedError
from sdmobile.runtimes.base import FileRunner, Predict
from sdmobile.runtimes.mlprogram.precision import EVALUATORS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmobile.formats.bundle.reading import BundleComponent


class MLProgramRunner(FileRunner):
    """Runs a package with the project's own evaluator.

    Args:
        components: the bundle's files.
        runtime: one of `mlprogram.precision.EVALUATORS`: "evaluator", in float32, asks whether the file encodes the
            right function; "evaluator-fp16" rounds the result of each float16 operation, as a phone stores it;
            "evaluator-fp16acc" rounds partial sums inside operations too.
    """

    def __init__(self, components: Mapping[str, BundleComponent], runtime: str = "evaluator") -> None:
        super().__init__(runtime, components)

    def _open(self, file: BundleComponent) -> Predict:
        from sdmobile.runtimes.mlprogram import MLProgram

        return MLProgram(file.path, precision=EVALUATORS[self.name]).predict


# Runtime name to the name of coremltools' compute units.
COMPUTE_UNITS = {"coreml": "ALL", "coreml-cpu": "CPU_ONLY", "coreml-gpu": "CPU_AND_GPU", "coreml-ne": "CPU_AND_NE"}


class CoreMLRunner(FileRunner):
    """Runs a package with Apple's Core ML.

    Args:
        components: the bundle's files.
        runtime: one of `COMPUTE_UNITS`; which units Core ML may use, of which it chooses itself.

    Raises:
        UnsupportedError: this machine does not run macOS.
    """

    def __init__(self, components: Mapping[str, BundleComponent], runtime: str = "coreml") -> None:
        if sys.platform != "darwin":
            raise UnsupportedError(
                f"the runtime `{runtime}` needs macOS", sys.platform, "Use `--runtime evaluator` on this machine."
            )
        super().__init__(runtime, components)

    def _open(self, file: BundleComponent) -> Predict:
        try:
            import coremltools
        except ImportError as error:
            raise MissingDependencyError(
                f"the runtime `{self.name}` needs coremltools", error, "Install it: pip install 'sdmobile[ios]'."
            ) from error
        units = getattr(coremltools.ComputeUnit, COMPUTE_UNITS[self.name])
        return coremltools.models.MLModel(str(file.path), compute_units=units).predict
