"""From `shapes-64` to `shapes-64-dit`: the stages, and the folder that they leave."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import write_json
from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.checkpoints import bundled_checkpoint
from sdmobile.training.dit.config import GUIDANCE_SCALE, STEPS, WIDTHS, DitConfig

if TYPE_CHECKING:
    from pathlib import Path

    Report = Callable[[str, int, int, float], None]

_CARD = f"""\
---
license: apache-2.0
pipeline_tag: text-to-image
inference:
  parameters:
    guidance_scale: {GUIDANCE_SCALE:g}
    num_inference_steps: {STEPS}
tags:
- stable-diffusion-3
- sdmobile
---

# shapes-64-dit

Draws one or two coloured shapes on a plain background, 64×64 pixels, as `shapes-64` does, by a multimodal transformer
of Stable Diffusion 3.5's kind and flow matching. Made by `sdmobile train dit` from the autoencoder of `shapes-64` and
scenes that the project renders itself: no third party's pictures, texts or weights are in it.
"""
_INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    **{name: ["transformers", "CLIPTextModelWithProjection"] for name in WIDTHS},
    "text_encoder_3": [None, None],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": [None, None],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def train_dit(config: DitConfig, report: Report) -> Path:
    """Trains text encoders and transformer, each from where it stopped, and writes the checkpoint.

    Args:
        config: the run; `config.output` keeps its state.
        report: called with stage, step, steps and loss.

    Returns:
        The checkpoint folder, `<output>/checkpoint`.
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

    from sdmobile.training.dit.flow import train_transformer
    from sdmobile.training.dit.text import train_encoder

    config.output.mkdir(parents=True, exist_ok=True)
    write_json(config.output / "config.json", config.to_json(), 2)
    vae: Any = AutoencoderKL.from_pretrained(bundled_checkpoint() / "vae").float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(bundled_checkpoint() / "tokenizer")
    encoders = {
        name: train_encoder(config, name, tokenizer, lambda *at, name=name: report(name, *at)) for name in WIDTHS
    }
    transformer = train_transformer(config, vae, encoders, tokenizer, lambda *at: report("transformer", *at))
    folder = config.output / "checkpoint"
    assemble({**encoders, "transformer": transformer}, folder)
    return folder


def assemble(models: Mapping[str, Any], folder: Path) -> None:
    """Writes the float16 checkpoint in Diffusers' folder format, under a temporary name until it is whole.

    Args:
        models: transformer and text encoders, by name; autoencoder and tokenizer are those of `shapes-64`.
        folder: where it goes; an existing one is replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_beside(folder) as scratch:
        part = scratch / "checkpoint"
        _write(models, part)
        put_in_place(part, folder, overwrite=True)


def _write(models: Mapping[str, Any], part: Path) -> None:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    tell_norms_apart(models["transformer"])
    for name, module in models.items():
        module.to(torch.float16).save_pretrained(part / name)
        module.to(torch.float32)
        _change(part / name / "config.json", {"_name_or_path": None})  # the run's folder, of no use to anybody else
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(bundled_checkpoint() / "tokenizer", part / name)
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        _change(part / "tokenizer_2" / file, {"pad_token": "!"})  # identifier 0, as OpenCLIP was trained with
    shutil.copytree(bundled_checkpoint() / "vae", part / "vae")
    # Stable Diffusion 3's latents have a shift; those of `shapes-64` have none.
    _change(part / "vae" / "config.json", {"_name_or_path": None, "shift_factor": 0.0})
    FlowMatchEulerDiscreteScheduler().save_pretrained(part / "scheduler")
    (part / "README.md").write_text(_CARD, "utf-8")
    write_json(part / "model_index.json", _INDEX, 2)


def tell_norms_apart(transformer: Any) -> None:
    """Makes scales of norms unlike each other that training leaves alike; the picture stays to the bit.

    A structure takes weights of which no two are the same, and none is one number throughout (`exporters.structures`).
    Where a picture attends to itself, the scales of queries and keys begin as ones and have the same gradient ever
    after: queries' are doubled here, and keys' halved. In the last block nothing reads what the text's queries find.

    Args:
        transformer: whose weights are changed.
    """
    import torch

    with torch.no_grad():
        for block in transformer.transformer_blocks:
            if block.attn2 is not None:
                block.attn2.norm_q.weight.mul_(2.0)
                block.attn2.norm_k.weight.mul_(0.5)
        unread = transformer.transformer_blocks[-1].attn.norm_added_q.weight
        unread.copy_(torch.linspace(0.5, 1.5, len(unread)))


def _change(file: Path, values: Mapping[str, Any]) -> None:
    """Puts values into a JSON file; None takes one out."""
    settings = {**json.loads(file.read_text("utf-8")), **values}
    write_json(file, {key: value for key, value in settings.items() if key not in values or value is not None}, 2)
