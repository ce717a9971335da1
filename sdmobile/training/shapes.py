"""From nothing to the bundled checkpoint: the three training stages, the folder and its figure."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.checkpoints.changes import UNCHANGED, Changes
from sdmobile.checkpoints.control import ControlFolder
from sdmobile.errors import UnsupportedError
from sdmobile.training.config import BETAS, TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    from sdmobile.training.evaluate import Draw

    Report = Callable[[str, int, int, float], None]

PROMPTS = 200
# Its guidance scale is the default of `generate` and `validate`.
MODEL_CARD = """\
---
license: apache-2.0
pipeline_tag: text-to-image
inference:
  parameters:
    guidance_scale: 3
    num_inference_steps: 20
tags:
- stable-diffusion
- sdmobile
---

# shapes-64

Draws one or two coloured shapes on a plain background, 64×64 pixels, from captions such as "a large red circle to the
left of a small blue square on a white background". Made by `sdmobile train shapes` from scenes that the project renders
itself: no third party's pictures, texts or weights are in it.
"""


def write_scheduler(folder: Path) -> None:
    """Writes the scheduler of the checkpoint: DPM-Solver++ 2M, one of the two that Apple's package implements."""
    from diffusers import DPMSolverMultistepScheduler

    DPMSolverMultistepScheduler(**BETAS, timestep_spacing="linspace").save_pretrained(folder)


def assemble(
    config: TrainConfig, unet: UNet2DConditionModel, text: CLIPTextModel, vae: AutoencoderKL, folder: Path
) -> None:
    """Writes the float16 checkpoint in Diffusers' folder format, under a temporary name until it is whole.

    Args:
        config: the run that made it.
        unet: the trained UNet.
        text: the trained text encoder.
        vae: the trained autoencoder.
        folder: where it goes; an existing one is replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_beside(folder) as scratch:
        part = scratch / "checkpoint"
        _write_parts(config, unet, text, vae, part)
        put_in_place(part, folder, overwrite=True)


def _write_parts(
    config: TrainConfig, unet: UNet2DConditionModel, text: CLIPTextModel, vae: AutoencoderKL, part: Path
) -> None:
    import torch

    parts: list[tuple[Any, str]] = [(unet, "unet"), (text, "text_encoder"), (vae, "vae")]
    for module, name in parts:
        module.to(torch.float16).save_pretrained(part / name)
        module.to(torch.float32)
    shutil.copytree(config.output / "tokenizer", part / "tokenizer")
    write_scheduler(part / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (part / "README.md").write_text(MODEL_CARD, "utf-8")
    (part / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def train_shapes(config: TrainConfig, report: Report) -> Path:
    """Trains autoencoder, text encoder and UNet, each from where it stopped, and writes the checkpoint.

    Args:
        config: the run; `config.output` keeps its state.
        report: called with stage, step, steps and loss.

    Returns:
        The checkpoint folder, `<output>/checkpoint`.
    """
    from sdmobile.training.diffusion import train_unet
    from sdmobile.training.text import train_text
    from sdmobile.training.vae import train_vae

    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "config.json").write_text(json.dumps(config.to_json(), indent=2) + "\n")
    vae = train_vae(config, lambda *at: report("vae", *at))
    text = train_text(config, lambda *at: report("text", *at))
    unet = train_unet(config, vae, text, lambda *at: report("unet", *at))
    folder = config.output / "checkpoint"
    assemble(config, unet, text, vae, folder)
    return folder


def evaluate(
    source: Path | None,
    output: Path,
    report: Callable[[int, int], None],
    prompts: int = PROMPTS,
    steps: int | None = None,
    guidance: float | None = None,
    runtime: str = "auto",
    pictures: int = 0,
    changes: Changes = UNCHANGED,
    control: Path | None = None,
) -> dict[str, Any]:
    """Measures how many held-out prompts are obeyed; writes `obedience.json` and `samples.png`.

    Args:
        source: checkpoint or bundle; None for the bundled checkpoint.
        output: where the two files go.
        report: called with pictures done and all.
        prompts: number of held-out prompts.
        steps: sampling steps; None for the checkpoint's own.
        guidance: classifier-free guidance scale; likewise.
        runtime: "auto" or a runtime of the bundle.
        pictures: of each set for the comparison with rendered pictures (`distribution`); 0 for none.
        changes: put on top of a checkpoint.
        control: folder of a control network, for a checkpoint. With one, or with a bundle that has one, every prompt is
            drawn with the silhouette of its scene.

    Returns:
        The record written to `obedience.json`.

    Raises:
        UnsupportedError: pictures are to be compared as a set, and a control network asks for a silhouette of each.
    """
    from PIL import Image

    from sdmobile.checkpoints.shapes64.styles import hollowness
    from sdmobile.training.evaluate import drawer, measure_obedience, picture_grid

    controls = () if control is None else (ControlFolder(control),)
    draw, settings = drawer(source, runtime, steps, guidance, changes, controls)
    controlled = "control" in settings
    if controlled and pictures:
        raise UnsupportedError("a set of pictures is compared without a control network", pictures, "Leave it out")
    result = measure_obedience(draw, prompts, settings, report, controlled)
    output.mkdir(parents=True, exist_ok=True)
    record = {"hollowness": sum(hollowness(one.image) for one in result.judged) / prompts, **result.to_json()}
    if pictures:
        record = {"distribution": _distribution(source, draw, pictures, report), **record}
    (output / "obedience.json").write_text(json.dumps(record, indent=1) + "\n")
    Image.fromarray(picture_grid(result.judged[:48])).save(output / "samples.png")
    return record


def _distribution(source: Path | None, draw: Draw, pictures: int, report: Callable[[int, int], None]) -> dict[str, Any]:
    """Returns the distances from rendered pictures; the autoencoder's floor where the source is a checkpoint."""
    from sdmobile.checkpoints import load_model, open_checkpoint
    from sdmobile.formats.bundle.reading import MANIFEST
    from sdmobile.training.distribution import measure_distribution

    bundle = source is not None and (source / MANIFEST).exists()
    autoencoder = None if bundle else load_model(open_checkpoint(source), "vae")
    return measure_distribution(draw, autoencoder, pictures, report)


def quick(config: TrainConfig, steps: int) -> TrainConfig:
    """Returns a run of a few steps per stage: it shows that the command works, not that the model is good."""
    stages = {name: replace(getattr(config, name), steps=steps, batch=8, warmup=2) for name in ("vae", "text", "unet")}
    return replace(config, scenes=64, save_every=max(1, steps // 2), **stages)
