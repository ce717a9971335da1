"""ONNX files through ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import MissingDependencyError
from sdmobile.formats.errors import whole
from sdmobile.runtimes.base import FileRunner, Predict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from sdmobile.formats.bundle.reading import BundleComponent


class OnnxRunner(FileRunner):
    """Runs an .onnx file with its external data.

    Args:
        components: the bundle's files.
        threads: CPU threads, None for the runtime's choice.
    """

    def __init__(self, components: Mapping[str, BundleComponent], threads: int | None = None) -> None:
        super().__init__("ort", components)
        self._threads = threads

    def _open(self, file: BundleComponent) -> Predict:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                "the runtime `ort` needs onnxruntime", error, "Install it: pip install 'sdmobile[onnx]'."
            ) from error
        options = onnxruntime.SessionOptions()
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        with whole(file.path):
            session = onnxruntime.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def predict(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            with whole(file.path):
                values = session.run(names, inputs)
            return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

        return predict
