"""Single files renamed by Diffusers' own conversion: the reference for the sources that the families state."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders import single_file_utils as ldm

from sdmobile.checkpoints.weights import laid_out, normalise
from sdmobile.families import autoencoder, clip, clip_pooled, unet, unet_xl
from sdmobile.families.component import Model
from sdmobile.families.original_names import Sources
from sdmobile.families.shapes import count_blocks

Tensors = dict[str, torch.Tensor]
Shapes = Mapping[str, tuple[int, ...]]
# Diffusers' names, of today and of earlier, for the attention that the original layout calls attn_1.
_ATTENTION = {
    **{"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"},
    **{"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out", "group_norm": "norm"},
}
_ROW = 1 << 32  # numbers of rows and of elements stay below


def told_apart(shapes: Shapes) -> Tensors:
    """Returns a tensor of each shape whose values say of which tensor and which row they are."""
    found: Tensors = {}
    for number, (name, shape) in enumerate(shapes.items()):
        rows = torch.arange(shape[0] if shape else 1).reshape(shape[:1] + (1,) * (len(shape) - 1))
        found[name] = (rows + number * _ROW).expand(shape)
    return found


def by_diffusers(model: Model, tensors: Tensors) -> Tensors:
    """Returns the tensors under the module's names as Diffusers converts them."""
    given = {name: value for name, value in tensors.items() if name.startswith(model.prefixes)}
    return _places(model, _converted(model, given))


def by_sources(model: Model, tensors: Tensors) -> Tensors:
    """Returns the tensors under the module's names as the family says."""
    given = {name: value for name, value in tensors.items() if name.startswith(model.prefixes)}
    sources: Sources = model.sources({name: tuple(value.shape) for name, value in given.items()})
    found: Tensors = {}
    for place, source in sources.items():
        value = given[source.name]
        value = value if source.rows is None else value[slice(*source.rows)]
        found[place] = value.T if source.transposed else value
    return _places(model, found)


def _places(model: Model, found: Mapping[str, torch.Tensor | None]) -> Tensors:
    """Returns what is taken of renamed tensors; where a bias is missing, Diffusers gives None for it."""
    places = {normalise(name, model.unused): value for name, value in found.items() if value is not None}
    return {key: value.reshape(laid_out(key, tuple(value.shape))) for key, value in places.items() if key is not None}


def _converted(model: Model, tensors: Tensors) -> dict[str, Any]:
    if model.prefixes == (unet.PREFIX,):
        return _unet(tensors, {"addition_embed_type": "text_time"} if model is unet_xl.MODEL else {})
    if model.prefixes == (autoencoder.PREFIX,):
        return _vae(tensors)
    if model.prefixes == (clip_pooled.SECOND,):
        return _open_clip(tensors, clip_pooled.SECOND)
    if not clip.is_open_clip(list(tensors)):
        return ldm.convert_ldm_clip_checkpoint(tensors)
    spare = model.spare(list(tensors))
    return _open_clip({name: value for name, value in tensors.items() if name not in spare}, clip.OPEN_CLIP)


def _unet(tensors: Tensors, more: dict[str, Any]) -> dict[str, Any]:
    blocks = count_blocks(tensors, f"{unet.PREFIX}input_blocks.")
    downs = (index for index in range(1, blocks) if f"{unet.PREFIX}input_blocks.{index}.0.op.weight" in tensors)
    return ldm.convert_ldm_unet_checkpoint(tensors, {"layers_per_block": next(downs, blocks) - 1, **more})


def _vae(tensors: Tensors) -> dict[str, Any]:
    levels = [None] * count_blocks(tensors, f"{autoencoder.PREFIX}encoder.down.")
    known: Tensors = {}
    for name, value in tensors.items():
        for new, old in _ATTENTION.items():
            name = name.replace(f".attn_1.{new}.", f".attn_1.{old}.")
        if not name.startswith(f"{autoencoder.PREFIX}loss."):
            known[name] = value
    return ldm.convert_ldm_vae_checkpoint(known, {"down_block_types": levels, "up_block_types": levels})


def _open_clip(tensors: Tensors, prefix: str) -> dict[str, Any]:
    width = tensors[f"{prefix}token_embedding.weight"].shape[-1]
    model: Any = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
    return ldm.convert_open_clip_checkpoint(model, tensors, prefix=prefix)
