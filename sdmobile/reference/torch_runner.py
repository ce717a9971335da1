"""The float32 torch reference that everything is compared with."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.component import Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.families.component import Component
    from sdmobile.formats.bundle.contracts import Geometry
    from sdmobile.runtimes.base import Arrays


class TorchRunner:
    """Runs a checkpoint's own modules in float32, unchanged by any rewrite.

    Args:
        checkpoint: the opened checkpoint.
        geometry: the sizes that inputs must have; None accepts what the modules accept.
    """

    def __init__(self, checkpoint: Checkpoint, geometry: Geometry | None = None) -> None:
        self._checkpoint = checkpoint
        self._geometry = geometry
        self._models: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """`torch`."""
        return "torch"

    @property
    def components(self) -> tuple[str, ...]:
        """Every component of the checkpoint's family."""
        return self._checkpoint.family.names

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Returns the canonical outputs of one component.

        Raises:
            UnsupportedError: unknown component, or a latent of another size than the geometry's.
            CheckpointError: layers of the model do not fit each other.
        """
        import torch

        part = self._checkpoint.family.component(component)
        self._check(part, inputs)
        model = self._model(part.model)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        try:
            with torch.inference_mode():
                output = part.reference(model, tensors)
        except RuntimeError as error:
            if "memory" in str(error):
                raise
            raise CheckpointError(
                "a model must compute what its configuration and tensors say",
                f"{component}: {str(error).splitlines()[0]}",
                f"Compare {part.model}/config.json with that of the published model",
            ) from error
        outputs = output if isinstance(output, tuple) else (output,)
        return {value.name: one.float().numpy() for value, one in zip(part.outputs, outputs, strict=True)}

    def release(self, component: str | None = None) -> None:
        """Frees one component's model, or all; the two halves of the VAE share one."""
        names = list(self._models) if component is None else [self._checkpoint.family.component(component).model]
        for name in names:
            self._models.pop(name, None)
        gc.collect()

    def _model(self, name: str) -> Any:
        if name not in self._models:
            from sdmobile.checkpoints import load_model

            self._models[name] = load_model(self._checkpoint, name)
        return self._models[name]

    def _check(self, part: Component, inputs: Arrays) -> None:
        """Refuses a latent of another size than the export's: the network itself would take it."""
        g = self._geometry
        if g is None or part.role not in (Role.DENOISER, Role.DECODER):
            return
        latent = inputs[part.inputs[0].name]
        expected = part.inputs[0].shape(g)[1:]
        if latent.shape[1:] != expected:
            raise UnsupportedError(f"a latent must have the shape {expected}", latent.shape[1:])
