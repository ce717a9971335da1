"""LiteRT files on the CPU of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.runtimes.base import FileRunner, Predict
from sdmobile.runtimes.litert_process import LiteRTProcess

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmobile.formats.bundle.reading import BundleComponent


class LiteRTRunner(FileRunner):
    """Runs a .tflite file by its named signature, in a process of its own.

    Args:
        components: the bundle's files.
        threads: CPU threads, None for the runtime's choice.
        delegates: let LiteRT hand operators to XNNPACK, as it does by itself.
    """

    def __init__(
        self, components: Mapping[str, BundleComponent], threads: int | None = None, delegates: bool = True
    ) -> None:
        super().__init__("litert", components)
        self._threads = threads
        self._delegates = delegates

    def _open(self, file: BundleComponent) -> Predict:
        return LiteRTProcess(file.path, file.contract.signature, self._threads, self._delegates)
