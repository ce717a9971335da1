"""LiteRT files on the CPU of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.errors import MissingDependencyError, UnsupportedError
from sdmobile.runtimes.base import FileRunner, Predict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmobile.formats.bundle.reading import BundleComponent


class LiteRTRunner(FileRunner):
    """Runs a .tflite file by its named signature.

    Args:
        components: the bundle's files.
        threads: CPU threads, None for the runtime's choice.
    """

    def __init__(self, components: Mapping[str, BundleComponent], threads: int | None = None) -> None:
        super().__init__("litert", components)
        self._threads = threads

    def _open(self, file: BundleComponent) -> Predict:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise MissingDependencyError(
                "the runtime `litert` needs ai-edge-litert", error, "Install it: pip install 'sdmobile[android]'."
            ) from error
        interpreter = Interpreter(model_path=str(file.path), num_threads=self._threads)
        signature = file.contract.signature
        known = sorted(interpreter.get_signature_list())
        if signature not in known:
            raise UnsupportedError(f"{file.path.name} must have the signature {signature}", known, "Export it again.")
        runner = interpreter.get_signature_runner(signature)
        return lambda inputs: runner(**inputs)
