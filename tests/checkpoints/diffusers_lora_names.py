"""The names of a LoRA's matrices by Diffusers' own conversion: the reference for `lora_names`."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from diffusers.utils.state_dict_utils import (
    StateDictType,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)

from sdmobile.checkpoints.weights import normalise

_WAYS = {".lora_A.weight": "lora_down", ".lora_B.weight": "lora_up"}


def places_by_diffusers(names: Iterable[str], layers: int) -> dict[str, tuple[str, str, str]]:
    """Returns model, module and matrix of each stored name; those that Diffusers leaves in another form are missing.

    Args:
        names: of matrices, without alphas.
        layers: blocks of each level of the UNet.
    """
    named: Any = {name: name for name in names}
    counting = SimpleNamespace(layers_per_block=layers)
    renamed: Any = StableDiffusionLoraLoaderMixin.lora_state_dict(named, unet_config=counting)[0]
    by_model: dict[str, dict[str, str]] = {}
    for key, name in renamed.items():
        model, _, rest = key.partition(".")
        by_model.setdefault(model, {})[rest] = name
    found: dict[str, tuple[str, str, str]] = {}
    for model, keys in by_model.items():
        # Left to guess, Diffusers relies on an output projection.
        old = StateDictType.DIFFUSERS_OLD
        peft = convert_unet_state_dict_to_peft(keys) if model == "unet" else convert_state_dict_to_peft(keys, old)
        for key, name in peft.items():
            for suffix, way in _WAYS.items():
                if key.endswith(suffix):
                    module = (normalise(key.removesuffix(suffix) + ".weight") or "").removesuffix(".weight")
                    found[name] = (model, module, way)
    return found
