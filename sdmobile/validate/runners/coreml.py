"""Core ML packages: through the project's evaluator anywhere, through Core ML itself on macOS."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from sdmobile.errors import MissingDependencyError, UnsupportedError
from sdmobile.validate.runners.base import FileRunner, Predict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmobile.validate.bundle import BundleComponent


class MLProgramRunner(FileRunner):
    """Runs a package with the project's own evaluator.

    Args:
        components: the bundle's files.
        precision: "float32" asks whether the file encodes the right function; "float16" rounds after each float16
            operation, as a phone would.
    """

    def __init__(
        self, components: Mapping[str, BundleComponent], precision: Literal["float32", "float16"] = "float32"
    ) -> None:
        super().__init__("evaluator" if precision == "float32" else "evaluator-fp16", components)
        self._precision: Literal["float32", "float16"] = precision

    def _open(self, file: BundleComponent) -> Predict:
        from sdmobile.validate.mlprogram import MLProgram

        return MLProgram(file.path, precision=self._precision).predict


class CoreMLRunner(FileRunner):
    """Runs a package with Apple's Core ML.

    Raises:
        UnsupportedError: this machine does not run macOS.
    """

    def __init__(self, components: Mapping[str, BundleComponent]) -> None:
        if sys.platform != "darwin":
            raise UnsupportedError(
                "the runtime `coreml` needs macOS", sys.platform, "Use `--runtime evaluator` on this machine."
            )
        super().__init__("coreml", components)

    def _open(self, file: BundleComponent) -> Predict:
        try:
            import coremltools
        except ImportError as error:
            raise MissingDependencyError(
                "the runtime `coreml` needs coremltools", error, "Install it: pip install 'sdmobile[ios]'."
            ) from error
        return coremltools.models.MLModel(str(file.path)).predict
