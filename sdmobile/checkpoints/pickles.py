"""Read pickled weight files without ever executing what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.headers import TensorInfo, check_readable
from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def load_pickle(path: Path, device: str | None = None) -> dict[str, torch.Tensor]:
    """Loads a .bin or .ckpt with `weights_only=True`, mapped into memory where the format allows it.

    Args:
        path: the file.
        device: "meta" for shapes and types only.

    Raises:
        CheckpointError: the file is missing or corrupt, or it holds anything but tensors and plain containers.
    """
    import pickle
    import zipfile

    import torch

    check_readable(path)
    try:
        state = torch.load(path, map_location=device or "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "a pickled checkpoint must hold tensors only: its code is never executed",
            f"{path}: {str(error).splitlines()[0]}",
            "Convert it to safetensors where you trust it.",
        ) from error
    except Exception as error:  # torch.load raises many types on a damaged file
        raise CheckpointError("a pickled checkpoint must be complete", f"{path}: {error}") from error
    return _tensors(path, state)


def read_pickle_header(path: Path) -> dict[str, TensorInfo]:
    """Returns shapes and types of the tensors in a pickled file, like read_header does for safetensors."""
    tensors = load_pickle(path, device="meta")
    return {
        name: TensorInfo(tuple(value.shape), str(value.dtype).removeprefix("torch."), path)
        for name, value in tensors.items()
    }


def _tensors(path: Path, state: Any) -> dict[str, torch.Tensor]:
    import torch

    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise CheckpointError("a pickled checkpoint must hold a dictionary of tensors", f"{path}: {type(state)}")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError("a pickled checkpoint must hold a dictionary of tensors", f"{path}: none found")
    return tensors
