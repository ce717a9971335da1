"""Draws pictures with the component under study as its weights are now, and everything else exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.contracts import Geometry
    from sdmobile.quantize.sensitivity_study import Study
    from sdmobile.runtimes.base import Arrays

_OUTPUT = {"text_encoder": "last_hidden_state", "unet": "noise_pred", "vae_decoder": "image", "vae_encoder": "moments"}


class StudyRunner:
    """A runner of float32 torch with one component replaced by the one under study.

    Args:
        checkpoint: computes the others.
        study: its module runs with the weights that it has when called.
        geometry: sizes of the pipeline.
    """

    def __init__(self, checkpoint: Checkpoint, study: Study, geometry: Geometry) -> None:
        from sdmobile.reference.torch_runner import TorchRunner

        self._exact = TorchRunner(checkpoint, geometry)
        self._study = study

    @property
    def name(self) -> str:
        """`torch`, with compressed weights."""
        return "torch, compressed weights"

    @property
    def components(self) -> tuple[str, ...]:
        """Every canonical component."""
        return self._exact.components

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Returns the canonical outputs of one component."""
        if component != self._study.component:
            return self._exact.run(component, inputs)
        import torch

        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values()]
        with torch.inference_mode():
            return {_OUTPUT[component]: self._study.module(*tensors).numpy()}

    def release(self, component: str | None = None) -> None:
        """Frees the others' modules."""
        self._exact.release(component)
