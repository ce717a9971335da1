"""Check one model's stored weights against its module, and load them in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.checkpoints.embeddings import put_rows
from sdmobile.checkpoints.lora_kinds import delta
from sdmobile.checkpoints.modules import empty_module
from sdmobile.checkpoints.weights import component_tensors, read_tensor
from sdmobile.errors import CheckpointError
from sdmobile.families.clip import TOKEN_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from torch import nn

    from sdmobile.checkpoints.headers import TensorInfo
    from sdmobile.checkpoints.types import Checkpoint

_SHOWN = 5


def load_model(checkpoint: Checkpoint, name: str) -> nn.Module:
    """Loads one model in float32 with the checkpoint's LoRAs, ready for inference, and checks every weight.

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
    module = checked_module(checkpoint, name)
    loaded = {
        key: _checked_float32(name, key, tensor)
        for key, tensor in component_tensors(checkpoint, name)
        if key in checkpoint.components[name].tensors
    }
    for key, change in _lora_changes(checkpoint, name):
        loaded[key] += change
        if not bool(loaded[key].isfinite().all()):
            raise CheckpointError("weights must stay finite with a LoRA", f"{name}: {key}", "Take a smaller scale.")
    if TOKEN_ROWS in loaded:
        loaded[TOKEN_ROWS] = put_rows(loaded[TOKEN_ROWS], checkpoint.embeddings, name)
    module.load_state_dict(loaded, strict=True, assign=True)
    _fill_buffers(module)
    return module.eval().requires_grad_(False)


def checked_module(checkpoint: Checkpoint, name: str) -> nn.Module:
    """Returns a model on torch's meta device, whose weights are all stored: names, shapes, types, none left over.

    Raises:
        CheckpointError: what is stored and the module do not fit.
        UnsupportedError: the configuration does not make a model.
    """
    info = checkpoint.components[name]
    module = empty_module(checkpoint.family.model(name), info.config)
    wanted = {key: tuple(parameter.shape) for key, parameter in module.state_dict().items()}
    _check_shapes(name, wanted, info.tensors)
    _check_complete(name, set(wanted) - set(info.tensors), [key for key in info.tensors if key not in wanted])
    return module


def check_values(checkpoint: Checkpoint, name: str) -> None:
    """Reads a model's weights once; raises CheckpointError where one is NaN or infinite, or a file is corrupt."""
    for key, tensor in component_tensors(checkpoint, name):
        _checked_float32(name, key, tensor)
    for _ in _lora_changes(checkpoint, name):
        pass


def _lora_changes(checkpoint: Checkpoint, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields what LoRAs add to the weights of a model, one weight after the other, in float32."""
    tensors = checkpoint.components[name].tensors
    for layer in (layer for lora in checkpoint.loras for layer in lora.layers if layer.model == name):
        if layer.weight not in tensors:
            continue  # of a layer that is left out
        parts = {key: _checked_float32(name, info.stored, read_tensor(info)) for key, info in layer.parts.items()}
        change = layer.factor * delta(parts, tensors[layer.weight].shape)
        yield layer.weight, _checked_float32(name, f"the LoRA's change of {layer.weight}", change)


def _check_shapes(component: str, wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, TensorInfo]) -> None:
    for key, info in stored.items():
        if key not in wanted:
            continue
        if info.shape != wanted[key]:
            raise CheckpointError(
                f"the weights of {component} must have the shapes of its architecture",
                f"{key} is {info.shape}, expected {wanted[key]}",
            )
        if not info.is_float:
            raise CheckpointError(
                "weights must be stored as floating-point numbers",
                f"{component}: {key} is {info.dtype}",
                "Undo the quantisation first, or use another copy of the checkpoint.",
            )


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
