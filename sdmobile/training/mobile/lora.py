"""Stage "lora": a new style on the frozen base, which later stages' UNets then draw in unchanged.

    L = mean w(t)·‖ε − ε_θ(x_t, t, c)‖²,   W_θ = W + (alpha/r)·B A

ε_θ is the UNet that stage "relu" leaves; A and B of rank 8 are trained on the queries, keys, values and outputs of its
attention and on its convolutions (Hu et al., arXiv 2106.09685), on the scenes of `render_hollow` under their usual
captions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState

from sdmobile.basics.files import whole_file
from sdmobile.checkpoints.shapes64.styles import render_hollow
from sdmobile.training.diffusion import encode_scenes
from sdmobile.training.loop import Trainer
from sdmobile.training.mobile.recover import train_base
from sdmobile.training.mobile.student import Student, copy_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from sdmobile.training.loop import Progress
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.world import World

NAME = "lora"
RANK = 8
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Of every attention; where keys and values share a projection, `to_k` is both."""
_SCENES = 6_000


def lora_file(config: MobileConfig) -> Path:
    """Returns where the stage leaves its LoRA."""
    return config.output / NAME / "pytorch_lora_weights.safetensors"


def targets(unet: Any) -> list[str]:
    """Returns the names of the layers to change: attention's, and the convolutions that are not depthwise."""
    return [
        name
        for name, layer in unet.named_modules()
        if name.endswith(_ATTENTION) or (isinstance(layer, torch.nn.Conv2d) and layer.groups == 1)
    ]


def add_lora(unet: Any) -> Any:
    """Returns a copy of a UNet with a fresh LoRA, which changes nothing yet and is all that can be trained."""
    from peft import LoraConfig, inject_adapter_in_model

    student = copy_of(unet).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets(student)), student)
    return student


def save_lora(unet: Any, file: Path) -> None:
    """Writes a UNet's LoRA as Diffusers does, whole or not at all."""
    from diffusers import StableDiffusionPipeline
    from peft import get_peft_model_state_dict

    weights: dict[str, Any] = {name: value.contiguous() for name, value in get_peft_model_state_dict(unet).items()}
    stated = {
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": sorted({name.rpartition(".lora_")[0] for name in weights}),
    }
    with whole_file(file) as partial:
        StableDiffusionPipeline.save_lora_weights(
            partial.parent, unet_lora_layers=weights, weight_name=partial.name, unet_lora_adapter_metadata=stated
        )


def train_lora(config: MobileConfig, world: World, progress: Progress) -> Path:
    """Trains the LoRA, or returns the finished one.

    Args:
        config: the run.
        world: data.
        progress: called with step, steps and loss.

    Returns:
        The file in Diffusers' format.
    """
    file = lora_file(config)
    if file.exists():
        return file
    base = train_base(config, world, progress)
    count = min(config.scenes, _SCENES)
    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():  # which encodes the scenes for all
        latents = encode_scenes(config.output, config.seed, count, world.vae, render_hollow, NAME)
    styled = replace(world, latents=latents)
    torch.manual_seed(config.seed)
    student = add_lora(base).train()
    folder = config.output / f"stage-{NAME}"
    folder.mkdir(parents=True, exist_ok=True)
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    groups = [{"params": trained, "lr": config.lora.learning_rate}]
    trainer = Trainer(Student(student), groups, config.lora, folder, config.ema)

    def loss_at(step: int) -> Tensor:
        batch = styled.batch((config.seed, 41, step), config.lora.batch, config.dropout)
        rows = batch.noisy, batch.timesteps, batch.states, batch.noise
        noisy, timesteps, states, noise = (trainer.share(x) for x in rows)
        return world.loss(trainer.module(noisy, timesteps, states), noise, timesteps)

    trainer.run(loss_at, config.output / f"log-{NAME}.jsonl", config.save_every, progress)
    averaged: Any = trainer.averaged()
    if trainer.accelerator.is_main_process:
        save_lora(averaged.unet.cpu(), file)
    trainer.accelerator.wait_for_everyone()
    return file
