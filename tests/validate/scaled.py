"""Checkpoints whose values do not fit float16 though their weights do."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path


def scaled_checkpoint(source: Path, folder: Path, prefixes: Sequence[str], factor: float) -> Path:
    """Copies a checkpoint and multiplies those tensors of its autoencoder whose names begin so."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    file = next((folder / "vae").glob("*.safetensors"))
    tensors = load_file(file)
    scaled = [name for name in tensors if name.startswith(tuple(prefixes))]
    assert scaled
    for name in scaled:
        tensors[name] = tensors[name] * factor
    save_file(tensors, file, metadata={"format": "pt"})
    return folder
