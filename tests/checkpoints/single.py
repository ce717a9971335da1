"""The tiny checkpoint under the names of the original layout, in one file; and what other tools make of such files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checkpoints.ldm_layout import clip_to_ldm, clip_to_open_clip, unet_to_ldm, vae_to_ldm

Tensors = dict[str, Any]


REGULAR: dict[str, dict[str, Any]] = {
    "text_encoder": {"hidden_size": 64, "num_attention_heads": 1, "projection_dim": 64},
    "unet": {"cross_attention_dim": 64, "attention_head_dim": 8, "norm_num_groups": 32},
    "vae": {"block_out_channels": [32, 64], "norm_num_groups": 32},
}
"""Changes that give the tiny checkpoint the numbers of heads and groups which a single file implies."""


def tensors_of(folder: Path, open_clip: bool = False) -> Tensors:
    """Returns the weights of a Diffusers folder by their names in the original layout."""
    from safetensors.torch import load_file

    weights = {name: load_file(next((folder / name).glob("*.safetensors"))) for name in ("unet", "vae", "text_encoder")}
    text = {name.removeprefix("text_model."): value for name, value in weights["text_encoder"].items()}
    tensors = unet_to_ldm(weights["unet"], layers=1) | vae_to_ldm(weights["vae"], levels=2)
    return tensors | (clip_to_open_clip(text, layers=2) if open_clip else clip_to_ldm(text))


def write_single(folder: Path, path: Path, change: Callable[[Tensors], object] = lambda tensors: None) -> Path:
    """Writes a Diffusers folder as one safetensors file.

    Args:
        folder: the tiny checkpoint.
        path: the file; its folder is created.
        change: of the tensors, before they are written.
    """
    from safetensors.torch import save_file

    tensors = tensors_of(folder)
    change(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path)
    return path
