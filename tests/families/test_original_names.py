"""Where single files hold a model's weights: tensor by tensor what Diffusers' conversion makes of the same names."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch

from sdmobile.checkpoints.modules import empty_module
from sdmobile.families import autoencoder, clip, clip_pooled, unet, unet_xl
from sdmobile.families.component import Model
from tests.checkpoints.diffusers_names import Tensors, by_diffusers, by_sources, told_apart
from tests.checkpoints.ldm_layout import (
    clip_to_ldm,
    clip_to_open_clip,
    second_clip_to_ldm,
    unet_to_ldm,
    vae_to_ldm,
    xl_unet_to_ldm,
)
from tests.synthetic import preset

SD15, SDXL = preset("sd15"), preset("sdxl")
# The published depths and blocks; what is narrower than published changes no name.
NARROW_UNET = {"block_out_channels": [32, 64, 64, 64], "cross_attention_dim": 64, "attention_head_dim": 8}
NARROW_VAE = {"block_out_channels": [32, 64, 64, 64]}
NARROW_TEXT = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 600, "num_attention_heads": 1}


def _state(model: Model, config: dict[str, Any], changes: dict[str, Any]) -> Tensors:
    return empty_module(model, {**config, **changes}).state_dict()


def _unet(changes: dict[str, Any] | None = None, layers: int = 2) -> Tensors:
    return unet_to_ldm(_state(unet.MODEL, SD15["unet"], {**NARROW_UNET, **(changes or {})}), layers)


def _unet_xl() -> Tensors:
    narrow = {"block_out_channels": [32, 64, 64], "cross_attention_dim": 64, "attention_head_dim": [1, 2, 2]}
    return xl_unet_to_ldm(_state(unet_xl.MODEL, SDXL["unet"], narrow), 2)


def _vae(**changes: Any) -> Tensors:
    return vae_to_ldm(_state(autoencoder.MODEL, SD15["vae"], {**NARROW_VAE, **changes}), 4)


def _text(layers: int) -> Tensors:
    return _state(clip.MODEL, SD15["text_encoder"], {**NARROW_TEXT, "num_hidden_layers": layers})


def _second() -> Tensors:
    narrow = {**NARROW_TEXT, "projection_dim": 64}
    return second_clip_to_ldm(_state(clip_pooled.MODEL_2, SDXL["text_encoder_2"], narrow), 32)


def _first() -> Tensors:
    return {clip_pooled.FIRST + f"text_model.{name}": value for name, value in _text(12).items()}


MODELS: dict[str, tuple[Model, Any]] = {
    "UNet of 1.x": (unet.MODEL, _unet),
    "UNet of 2.x": (unet.MODEL, lambda: _unet({"use_linear_projection": True})),
    "UNet of inpainting": (unet.MODEL, lambda: _unet({"in_channels": 9})),
    "UNet of one block per level": (unet.MODEL, lambda: _unet({"layers_per_block": 1}, 1)),
    "UNet without a middle": (unet.MODEL, lambda: _unet({"mid_block_type": None})),
    "UNet of XL": (unet_xl.MODEL, _unet_xl),
    "autoencoder": (autoencoder.MODEL, _vae),
    "autoencoder without attention": (autoencoder.MODEL, lambda: _vae(mid_block_add_attention=False)),
    "CLIP": (clip.MODEL, lambda: clip_to_ldm(_text(12))),
    "OpenCLIP": (clip.MODEL, lambda: clip_to_open_clip(_text(23), 23)),
    "OpenCLIP of other depth": (clip.MODEL, lambda: clip_to_open_clip(_text(3), 3)),
    "first encoder of XL": (clip_pooled.MODEL, _first),
    "second encoder of XL": (clip_pooled.MODEL_2, _second),
}


def _assert_same(model: Model, tensors: Tensors) -> Tensors:
    wanted, found = by_diffusers(model, tensors), by_sources(model, tensors)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    return found


@pytest.fixture(scope="module", params=MODELS)
def stored(request: pytest.FixtureRequest) -> tuple[Model, Tensors]:
    model, write = MODELS[request.param]
    return model, told_apart({name: tuple(value.shape) for name, value in write().items()})


def test_whole_models(stored: tuple[Model, Tensors]) -> None:
    model, tensors = stored
    found = _assert_same(model, tensors)
    used = {int(value) // (1 << 32) for tensor in found.values() for value in tensor.reshape(len(tensor), -1)[:, 0]}
    spare = model.spare(list(tensors))
    assert {name for number, name in enumerate(tensors) if number not in used} == set(spare) & set(tensors)


@pytest.mark.parametrize("seed", range(6))
def test_models_with_tensors_that_are_missing_or_none_knows(seed: int, stored: tuple[Model, Tensors]) -> None:
    """Whatever is cut away or put in, both find the same, or both refuse."""
    model, tensors = stored
    chance = Random(seed)
    names = list(tensors)
    gone = {name for name in names if chance.random() < chance.choice((0.0, 0.01, 0.3))}
    blocks = sorted({name.rpartition(".")[0].rpartition(".")[0] for name in names})
    gone |= {name for cut in chance.sample(blocks, seed % 3) for name in names if name.startswith(f"{cut}.")}
    left = {name: value for name, value in tensors.items() if name not in gone}
    for name in chance.sample(sorted(left), min(3, len(left))):
        left[f"{name.rpartition('.')[0]}.other.weight"] = tensors[name]
    try:
        wanted = by_diffusers(model, left)
    except (LookupError, AttributeError):
        wanted = None
    if wanted is None:
        with pytest.raises(LookupError):
            by_sources(model, left)
    else:
        _assert_same(model, left)


@pytest.mark.parametrize("names", [("query", "key", "value", "proj_attn"), ("to_q", "to_k", "to_v", "to_out.0")])
def test_attention_that_a_converter_left_under_diffusers_names(names: tuple[str, ...]) -> None:
    shapes = {name: tuple(value.shape) for name, value in _vae().items()}
    for new, old in zip(names, ("q", "k", "v", "proj_out"), strict=True):
        shapes = {name.replace(f".attn_1.{old}.", f".attn_1.{new}."): shape for name, shape in shapes.items()}
    found = _assert_same(autoencoder.MODEL, told_apart(shapes))
    assert found["encoder.mid_block.attentions.0.to_q.weight"].shape == (64, 64)
