"""Load one component's weights into a float32 torch module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.checkpoints.modules import empty_module
from sdmobile.checkpoints.weights import component_tensors
from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sdmobile.checkpoints.types import Checkpoint

_SHOWN = 5


def load_model(checkpoint: Checkpoint, name: str) -> nn.Module:
    """Loads one model in float32, ready for inference, and checks every weight.

    Peak memory is the float32 module plus one tensor.

    Args:
        checkpoint: from open_checkpoint.
        name: of the family's model, such as "unet".

    Returns:
        The Diffusers or Transformers module in eval mode without gradients.

    Raises:
        CheckpointError: a weight is missing, has the wrong shape, or is not finite; or a file is corrupt.
        UnsupportedError: the configuration does not make a model.
    """
    info = checkpoint.components[name]
    module = empty_module(checkpoint.family.model(name), info.config)
    wanted = {key: tuple(parameter.shape) for key, parameter in module.state_dict().items()}
    loaded: dict[str, torch.Tensor] = {}
    unknown: list[str] = []
    for key, tensor in component_tensors(checkpoint, name):
        if key not in wanted:
            unknown.append(key)
            continue
        if tuple(tensor.shape) != wanted[key]:
            raise CheckpointError(
                f"the weights of {name} must have the shapes of its architecture",
                f"{key} is {tuple(tensor.shape)}, expected {wanted[key]}",
            )
        loaded[key] = _checked_float32(name, key, tensor)
    _check_complete(name, set(wanted) - set(loaded), unknown)
    module.load_state_dict(loaded, strict=True, assign=True)
    _fill_buffers(module)
    return module.eval().requires_grad_(False)


def _checked_float32(component: str, name: str, tensor: torch.Tensor) -> torch.Tensor:
    import torch

    value = tensor.to(dtype=torch.float32).contiguous()
    # The sum is finite only if all are (or is infinite by overflow, which the exact count then clears).
    if not torch.isfinite(value.sum()):
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise CheckpointError(
                "every weight must be finite",
                f"{component}: {bad} of {value.numel()} values of {name} are NaN or infinite",
                "Use another copy of the checkpoint, or one that was saved in float32.",
            )
    return value


def _check_complete(component: str, missing: set[str], unknown: list[str]) -> None:
    if missing:
        shown = ", ".join(sorted(missing)[:_SHOWN])
        raise CheckpointError(f"{component} must have all its weights", f"{len(missing)} missing, among them {shown}")
    if unknown:
        shown = ", ".join(sorted(unknown)[:_SHOWN])
        raise CheckpointError(
            f"{component} must have no weights that its architecture does not use",
            f"{len(unknown)} unknown, among them {shown}",
        )


def _fill_buffers(module: nn.Module) -> None:
    """Gives buffers that are not stored their values: CLIP's position_ids are 0..context-1."""
    import torch

    for name, buffer in list(module.named_buffers()):
        if not buffer.is_meta:
            continue
        owner_name, _, kind = name.rpartition(".")
        if kind != "position_ids":
            raise CheckpointError("every buffer must be stored or known", name)
        owner = module.get_submodule(owner_name)
        owner.register_buffer(kind, torch.arange(buffer.shape[-1]).reshape(buffer.shape), persistent=False)
