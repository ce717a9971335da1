"""Which module a LoRA's matrix belongs to: as Diffusers renames it, for every layer of the published architectures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sdmobile.checkpoints.lora_names import places
from sdmobile.checkpoints.modules import empty_module
from sdmobile.families import clip, clip_pooled, unet, unet_xl
from sdmobile.families.component import Model
from tests.checkpoints.diffusers_lora_names import places_by_diffusers
from tests.checkpoints.ldm_layout import unet_to_ldm, xl_unet_to_ldm
from tests.synthetic import preset

SD15: dict[str, Model] = {"unet": unet.MODEL, "text_encoder": clip.MODEL}
SDXL: dict[str, Model] = {
    "unet": unet_xl.MODEL,
    "text_encoder": clip_pooled.MODEL,
    "text_encoder_2": clip_pooled.MODEL_2,
}
KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_"}
LAYERS = 2
Components = dict[str, Any]


def _components(models: dict[str, Model], configs: Any) -> Components:
    """Returns what a LoRA's names are found by: names of the weights, and the blocks per level."""
    own = {name: {**configs[name], **({} if name == "unet" else {"vocab_size": 600})} for name in models}
    return {
        name: SimpleNamespace(tensors=empty_module(model, own[name]).state_dict(), config=own[name])
        for name, model in models.items()
    }


@pytest.fixture(scope="module")
def sd15() -> Components:
    return _components(SD15, preset("sd15"))


@pytest.fixture(scope="module")
def sdxl() -> Components:
    return _components(SDXL, preset("sdxl"))


def _matrices(info: Any) -> list[str]:
    """Returns the modules with a weight that a LoRA changes: of two axes or more."""
    weights = [name for name, value in info.tensors.items() if name.endswith(".weight") and value.ndim > 1]
    return [name.removesuffix(".weight") for name in weights if "embeddings." not in name]


def _pairs(bases: list[str], ways: tuple[str, str]) -> list[str]:
    return [f"{base}{way}.weight" for base in bases for way in ways]


def _compare(names: list[str], components: Components) -> None:
    placed = places(names, components).items()
    found = {name: (one.model, one.module.removeprefix("text_model."), one.part) for name, one in placed}
    wanted = places_by_diffusers(names, LAYERS)
    assert len(wanted) == len(names)
    assert found == wanted
    for model, module, _ in found.values():
        assert f"{module}.weight" in components[model].tensors


@pytest.mark.parametrize("which", ["sd15", "sdxl"])
def test_kohyas_names_of_every_layer(which: str, request: pytest.FixtureRequest) -> None:
    components: Components = request.getfixturevalue(which)
    bases = [
        KOHYA[model] + module.replace(".", "_")
        for model, info in components.items()
        for module in _matrices(info)
        # Diffusers renames the one where it loads it, and of the other takes the number away.
        if module != "text_projection" and "add_embedding" not in module
    ]
    _compare(_pairs(bases, (".lora_down", ".lora_up")), components)


@pytest.mark.parametrize("which", ["sd15", "sdxl"])
def test_kohyas_names_after_the_original_layout(which: str, request: pytest.FixtureRequest) -> None:
    components: Components = request.getfixturevalue(which)
    weights = {name: value for name, value in components["unet"].tensors.items() if value.ndim > 1}
    stored = unet_to_ldm(weights, LAYERS) if which == "sd15" else xl_unet_to_ldm(weights, LAYERS)
    originals = {id(value): name.removeprefix(unet.PREFIX).removesuffix(".weight") for name, value in stored.items()}
    bases = {KOHYA["unet"] + originals[id(value)].replace(".", "_"): name for name, value in weights.items()}
    names = _pairs(list(bases), (".lora_down", ".lora_up"))
    found = places(names, components)
    assert {one.base: f"{one.module}.weight" for one in found.values()} == bases
    if which == "sdxl":  # Diffusers confounds blocks 1 and 10
        _compare(names, components)


@pytest.mark.parametrize("form", ["PEFT", "lora", "processor", "linear layer"])
def test_names_of_peft_and_of_earlier_diffusers(form: str, sd15: Components) -> None:
    unet_modules = [f"unet.{name}" for name in _matrices(sd15["unet"])]
    text_modules = [f"text_encoder.text_model.{name}" for name in _matrices(sd15["text_encoder"])]
    if form == "PEFT":
        names = _pairs(unet_modules + text_modules, (".lora_A", ".lora_B"))
    elif form == "lora":
        names = _pairs(unet_modules, (".lora.down", ".lora.up"))
    elif form == "processor":
        bases = [name for name in unet_modules if ".attn1.to_" in name or ".attn2.to_" in name]
        short = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "0": "to_out"}
        bases = [f"{name.partition('.to_')[0]}.processor.{short[name.rpartition('.')[2]]}_lora" for name in bases]
        text = [name for name in text_modules if "_proj" in name]
        text = [f"{name.rpartition('.')[0]}.to_{name.rpartition('.')[2].removesuffix('_proj')}_lora" for name in text]
        names = _pairs(bases + text, (".down", ".up"))
    else:
        names = _pairs(text_modules, (".lora_linear_layer.down", ".lora_linear_layer.up"))
    _compare(names, sd15)


def test_names_of_no_form_and_of_both_layouts(sd15: Components) -> None:
    own, original = "lora_unet_mid_block_resnets_0_conv1.lora_up.weight", "lora_unet_middle_block_0_in_layers_2.alpha"
    up = original.replace(".alpha", ".lora_up.weight")
    assert set(places([own, original], sd15)) == {own}
    assert [one.module for one in places([up], sd15).values()] == ["mid_block.resnets.0.conv1"]
    assert places([own, up], sd15).keys() == {own}
    assert not places([own, "unet.conv_in.lora_A.bias"], sd15)
    assert not places(["lora_unet_conv_in.diff", "lora_unet_conv_in.lora_up.bias"], sd15)


def test_layers_whose_names_diffusers_does_not_undo(sdxl: Components) -> None:
    names = {"te2_text_projection": "text_projection", "unet_add_embedding_linear_2": "add_embedding.linear_2"}
    found = places([f"lora_{name}.lora_up.weight" for name in names], sdxl)
    assert [one.module for one in found.values()] == list(names.values())
