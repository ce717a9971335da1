"""A checkpoint folder of what a stage left, so that every command judges it as it would any other."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import write_json
from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.checkpoints import bundled_checkpoint
from sdmobile.models.noise_from_v import KEYS
from sdmobile.models.unet import declare
from sdmobile.training.config import BETAS
from sdmobile.training.mobile.config import GUIDANCE_SCALE
from sdmobile.training.mobile.student import copy_of
from sdmobile.training.shapes import write_scheduler

if TYPE_CHECKING:
    from pathlib import Path

_CARD = """\
---
license: apache-2.0
pipeline_tag: text-to-image
inference:
  parameters:
    guidance_scale: {guidance:g}
    num_inference_steps: {steps}
tags:
- mobile-diffusion
- sdmobile
---

# shapes-64-mobile

Draws one or two coloured shapes on a plain background, 64×64 pixels, as `shapes-64` does, by a UNet and a decoder after
MobileDiffusion (arXiv 2311.16567). Made by `sdmobile train mobile` from `shapes-64` and scenes that the project renders
itself: no third party's pictures, texts or weights are in it.
"""


def assemble(unet: Any, vae: Any, folder: Path, steps: int) -> None:
    """Writes a float16 checkpoint in Diffusers' folder format, with text encoder and tokenizer of `shapes-64`.

    Args:
        unet: a MobileUNet2DConditionModel; one with distilled guidance predicts v, of which the written one makes ε,
            and is sampled by trailing DDIM.
        vae: a MobileAutoencoderKL.
        folder: where it goes; an existing one is replaced.
        steps: that the model card says.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_beside(folder) as scratch:
        part = scratch / "checkpoint"
        _write(unet, vae, part, steps)
        put_in_place(part, folder, overwrite=True)


def _write(unet: Any, vae: Any, part: Path, steps: int) -> None:
    import torch
    from diffusers import DDIMScheduler

    distilled = unet.config.distilled_guidance_scale is not None
    written = copy_of(unet)
    if distilled:
        declare(written, noise_schedule={key: BETAS[key] for key in sorted(KEYS)})
    for module, name in ((written, "unet"), (vae, "vae")):
        module.to(torch.float16).save_pretrained(part / name)
        module.to(torch.float32)
        config = json.loads((part / name / "config.json").read_text("utf-8"))
        config.pop("_name_or_path", None)  # the run's folder, of no use to anybody else
        write_json(part / name / "config.json", config, 2)
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(bundled_checkpoint() / name, part / name)
    if distilled:
        DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing="trailing").save_pretrained(part / "scheduler")
    else:
        write_scheduler(part / "scheduler")
    index = json.loads((bundled_checkpoint() / "model_index.json").read_text("utf-8"))
    index["unet"] = ["sdmobile.models.unet", type(unet).__name__]
    index["vae"] = ["sdmobile.models.autoencoder", type(vae).__name__]
    index["scheduler"][1] = "DDIMScheduler" if distilled else "DPMSolverMultistepScheduler"
    (part / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    guidance = 1.0 if distilled else GUIDANCE_SCALE
    (part / "README.md").write_text(_CARD.format(guidance=guidance, steps=steps), "utf-8")
