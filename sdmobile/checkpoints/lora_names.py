"""Which module of which model each tensor of a LoRA belongs to, by its name, of today or of earlier.

    PEFT, Diffusers     unet.down_blocks.0.attentions.0.proj_in.lora_A.weight
    Diffusers before    unet.….attn1.to_q.lora.down.weight, unet.….attn1.processor.to_q_lora.down.weight
                        text_encoder.….mlp.fc1.lora_linear_layer.down.weight, ….self_attn.to_q_lora.down.weight
    kohya, LyCORIS      lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight, lora_te_text_model_….alpha
                        lora_unet_input_blocks_1_1_proj_in.lora_down.weight: blocks as the original layout counts them
                        lora_te1_…, lora_te2_…: of two text encoders; lora_transformer_…: of a transformer

A name that begins with no model's is the denoiser's, or, by how text encoders begin, the text encoder's.

A name of kohya's is a module's with underscores for dots, so the modules of the checkpoint tell where the dots are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmobile.checkpoints.lora_kinds import PARTS
from sdmobile.families.original_names import underscored_module

if TYPE_CHECKING:
    from sdmobile.checkpoints.types import ComponentInfo

UNET, TRANSFORMER, TEXT = "unet", "transformer", "text_encoder"
_DENOISER = "lora_unet_"
_KOHYA = {
    _DENOISER: UNET,
    "lora_transformer_": TRANSFORMER,
    "lora_te_": TEXT,
    "lora_te1_": TEXT,
    "lora_te2_": f"{TEXT}_2",
    "lora_te3_": f"{TEXT}_3",
}
_ORIGINAL, _OWN = ("input_blocks", "middle_block", "output_blocks"), ("down_blocks", "mid_block", "up_blocks")
_PEFT = re.compile(r"(.+)\.lora_([AB])\.weight")
_EARLIER = re.compile(r"(.+?)(?:\.to_(q|k|v|out)_lora|\.lora|\.lora_linear_layer)\.(down|up)\.weight")
_PROJECTIONS = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
_WAYS = {"A": "lora_down", "B": "lora_up", "down": "lora_down", "up": "lora_up"}


@dataclass(frozen=True)
class Place:
    """What a tensor of a LoRA is.

    Args:
        model: name of the family's model.
        module: in it; empty where it has no such module.
        base: what the names of all tensors of one change begin with.
        part: by LyCORIS' names, such as "lora_down".
    """

    model: str
    module: str
    base: str
    part: str


def places(names: Iterable[str], components: Mapping[str, ComponentInfo]) -> dict[str, Place]:
    """Returns what each tensor of a LoRA is, by its stored name; those of no known form are left out.

    Args:
        names: stored.
        components: the checkpoint's models.
    """
    names = list(names)
    if all(name.startswith(tuple(_KOHYA)) for name in names):
        return _kohya_places(names, components)
    found = {name: _diffusers_place(name, _denoiser(components)) for name in names}
    return {name: place for name, place in found.items() if place is not None}


def _denoiser(components: Mapping[str, ComponentInfo]) -> str:
    return TRANSFORMER if TRANSFORMER in components else UNET


def _diffusers_place(name: str, denoiser: str) -> Place | None:
    model, _, key = name.partition(".")
    if model not in (UNET, TRANSFORMER, TEXT) and not model.startswith(f"{TEXT}_"):  # most files have it
        model, key = TEXT if model in ("text_model", "encoder") else denoiser, name
    if match := _PEFT.fullmatch(key):
        return Place(model, match[1], name.rpartition(".lora_")[0], _WAYS[match[2]])
    if (match := _EARLIER.fullmatch(key.replace(".processor.", "."))) is None:
        return None
    module, projection, way = match.groups()
    if projection is not None:
        module += f".{_PROJECTIONS[projection] if model == denoiser else f'{projection}_proj'}"
    return Place(model, module, name.removesuffix(f".{way}.weight"), _WAYS[way])


def _kohya_places(names: list[str], components: Mapping[str, ComponentInfo]) -> dict[str, Place]:
    modules = {name: _modules(info) for name, info in components.items()}
    config = components[UNET].config if UNET in components else {}
    layers = config.get("layers_per_block", 2)
    # With both kinds of names, those of the original layout are spare, as Diffusers has it.
    both = all(any(block in name for name in names for block in blocks) for blocks in (_ORIGINAL, _OWN))
    found: dict[str, Place] = {}
    for name in names:
        base, _, part = name.partition(".")
        start = next(start for start in _KOHYA if base.startswith(start))
        model, own = _KOHYA[start], base.removeprefix(start)
        model = _denoiser(components) if start == _DENOISER else model
        if own.startswith(_ORIGINAL) and both:
            continue
        if model == UNET and isinstance(layers, int):
            own = underscored_module(own, layers)
        module = modules.get(model, {}).get(own.removeprefix("text_model_"), "")
        if (part := part.removesuffix(".weight")) in PARTS:
            found[name] = Place(model, module, base, part)
    return found


def _modules(info: ComponentInfo) -> dict[str, str]:
    """Returns the modules of a model that have a weight, by their names with underscores."""
    names = [name.removesuffix(".weight") for name in info.tensors if name.endswith(".weight")]
    return {name.replace(".", "_"): name for name in names}
