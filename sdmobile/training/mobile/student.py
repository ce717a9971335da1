"""What the stages of the UNet share: the student's forward as Accelerate wraps it, its folder and its trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sdmobile.models.unet import MobileUNet2DConditionModel
from sdmobile.training.loop import Trainer

if TYPE_CHECKING:
    from torch import Tensor

    from sdmobile.training.config import Stage
    from sdmobile.training.mobile.config import MobileConfig


class Student(torch.nn.Module):
    """The UNet with a tensor for an answer, as Accelerate's mixed precision wraps `forward`."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    @property
    def net(self) -> Any:
        """What is trained."""
        return self.unet

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        return self.unet(noisy, timesteps, states, return_dict=False)[0]


def finished(config: MobileConfig, name: str, kind: Any = MobileUNet2DConditionModel) -> Any | None:
    """Returns the network that a stage left, in evaluation mode; None while it is not done.

    Args:
        config: the run.
        name: of the stage.
        kind: the network's class.
    """
    folder = config.output / name
    if not (folder / "config.json").exists():
        return None
    net: Any = kind.from_pretrained(folder)
    return net.eval().requires_grad_(False)


def copy_of(unet: Any) -> Any:
    """Returns a UNet of the same configuration and weights, without what was hooked on to the first."""
    copied: Any = MobileUNet2DConditionModel.from_config(unet.config)
    copied.load_state_dict(unet.state_dict())
    return copied.eval()


def student_trainer(
    config: MobileConfig, name: str, unet: Any, stage: Stage, ema: float | None = None, **more: Any
) -> Trainer:
    """Returns the trainer of a UNet's stage, which goes on where a stopped one was.

    Args:
        config: the run.
        name: of the stage; its state lies in `<output>/stage-<name>`.
        unet: to be trained, all of it.
        stage: steps, batch and learning rate.
        ema: decay of the averaged weights, None for the run's.
        more: further arguments of the trainer.
    """
    return module_trainer(config, name, Student(unet), stage, ema, **more)


def module_trainer(
    config: MobileConfig, name: str, module: torch.nn.Module, stage: Stage, ema: float | None = None, **more: Any
) -> Trainer:
    """Returns the trainer of a module that calls a network, all of whose weights are trained; as `student_trainer`."""
    folder = config.output / f"stage-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    module.train().requires_grad_(True)
    groups = [{"params": list(module.parameters()), "lr": stage.learning_rate}]
    return Trainer(module, groups, stage, folder, config.ema if ema is None else ema, **more)


def keep(config: MobileConfig, name: str, trainer: Trainer) -> Any:
    """Writes the network with averaged weights to `<output>/<name>` and returns it."""
    averaged: Any = trainer.averaged()
    net = averaged.net.cpu()
    if trainer.accelerator.is_main_process:
        net.save_pretrained(config.output / name)
    trainer.accelerator.wait_for_everyone()
    return net.eval().requires_grad_(False)
