"""The float32 torch reference that everything is compared with."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.contracts import Geometry
    from sdmobile.runtimes.base import Arrays

# Canonical component: the checkpoint's module that computes it.
_MODULE = {"text_encoder": "text_encoder", "unet": "unet", "vae_decoder": "vae", "vae_encoder": "vae"}
_OUTPUT = {"text_encoder": "last_hidden_state", "unet": "noise_pred", "vae_decoder": "image", "vae_encoder": "moments"}


class TorchRunner:
    """Runs a checkpoint's own modules in float32, unchanged by any rewrite.

    Args:
        checkpoint: the opened checkpoint.
        geometry: the sizes that inputs must have; None accepts what the modules accept.
    """

    def __init__(self, checkpoint: Checkpoint, geometry: Geometry | None = None) -> None:
        self._checkpoint = checkpoint
        self._geometry = geometry
        self._modules: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """`torch`."""
        return "torch"

    @property
    def components(self) -> tuple[str, ...]:
        """Every canonical component."""
        return tuple(_MODULE)

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Returns the canonical outputs of one component.

        Raises:
            UnsupportedError: unknown component, or a latent of another size than the geometry's.
        """
        import torch

        if component not in _MODULE:
            raise UnsupportedError(f"a component is one of {', '.join(_MODULE)}", component)
        self._check(component, inputs)
        module = self._module(_MODULE[component])
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        with torch.inference_mode():
            output = _forward(component, module, tensors)
        return {_OUTPUT[component]: output.float().numpy()}

    def release(self, component: str | None = None) -> None:
        """Frees one component's module, or all; the two halves of the VAE share one."""
        for name in list(self._modules) if component is None else [_MODULE[component]]:
            self._modules.pop(name, None)
        gc.collect()

    def _module(self, name: str) -> Any:
        if name not in self._modules:
            from sdmobile.checkpoints import load_component

            self._modules[name] = load_component(self._checkpoint, name)  # pyright: ignore[reportArgumentType]
        return self._modules[name]

    def _check(self, component: str, inputs: Arrays) -> None:
        g = self._geometry
        key = {"unet": "sample", "vae_decoder": "latent"}.get(component)
        if g is None or key is None:
            return
        expected = (g.latent_channels, g.latent_height, g.latent_width)
        if inputs[key].shape[1:] != expected:
            raise UnsupportedError(f"a latent must have the shape {expected}", inputs[key].shape[1:])


def _forward(component: str, module: Any, tensors: dict[str, Any]) -> Any:
    if component == "text_encoder":
        return module(input_ids=tensors["input_ids"]).last_hidden_state
    if component == "unet":
        return module(tensors["sample"], tensors["timestep"], tensors["encoder_hidden_states"], return_dict=False)[0]
    if component == "vae_decoder":
        return module.decode(tensors["latent"], return_dict=False)[0]
    latents = module.encode(tensors["image"]).latent_dist
    return latents.parameters
