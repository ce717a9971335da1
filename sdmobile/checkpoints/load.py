"""Check one model's stored weights against its module, and load them in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.checkpoints.modules import empty_module
from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

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
    module.load_state_dict(dict(read_weights(checkpoint, name)), strict=True, assign=True)
    _fill_buffers(module)
    return module.eval().requires_grad_(False)


def hollow_model(checkpoint: Checkpoint, name: str) -> nn.Module:
    """Returns what `load_model` does, but for its stored weights: they are fake tensors, which take no memory.

    A graph can be captured from it, and `read_weights` brings the weights where they are needed. What no file holds is
    real.

    Args:
        checkpoint: from open_checkpoint.
        name: of the family's model.

    Raises:
        CheckpointError, UnsupportedError: as `checked_module`.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    module = checked_module(checkpoint, name)
    with FakeTensorMode(allow_non_fake_inputs=True):  # beside real constants
        weights = {key: torch.empty(one.shape, dtype=torch.float32) for key, one in module.state_dict().items()}
    module.load_state_dict(weights, strict=True, assign=True)
    _fill_buffers(module)
    return module.eval().requires_grad_(False)


def read_weights(
    checkpoint: Checkpoint, name: str, wanted: Collection[str] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields a model's weights in float32 with what the checkpoint's LoRAs and embeddings change, one at a time.

    Args:
        checkpoint: from open_checkpoint.
        name: of the family's model.
        wanted: names of the weights in the module; None for all.

    Raises:
        CheckpointError: a weight is not finite, or a file is corrupt.
    """
    import torch

    from sdmobile.checkpoints.arrays import model_arrays

    for key, value in model_arrays(checkpoint, name, wanted):
        yield key, torch.from_numpy(value)


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
