"""Stages "control" and "plugin": adapters by which a picture says where the shapes are, on the frozen base.

    L = mean w(t)·‖ε − ε_θ(x_t, t, c; r)‖²
    r = F(x_t, t, c, silhouette) of a ControlNet, F(silhouette) of a plugin

ε_θ is the UNet that stage "relu" leaves; only F is trained. Half of the captions are empty, so that the picture is
looked at (Zhang et al., arXiv 2302.05543, section 3.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdmobile.checkpoints.shapes64.scenes import IMAGE_SIZE, silhouette
from sdmobile.models.controlnet import MobileControlNetModel
from sdmobile.models.plugin import MobileControlPlugin
from sdmobile.training.config import LATENT_SIZE
from sdmobile.training.mobile.recover import train_base
from sdmobile.training.mobile.student import finished, keep, module_trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sdmobile.checkpoints.shapes64.scenes import Scene
    from sdmobile.training.config import Stage
    from sdmobile.training.loop import Progress
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.world import World

CONTROL, PLUGIN = "control", "plugin"
EMPTY = 0.5
EMBEDDING = (16, 32, 64)
"""Channels of the ControlNet's embedding of the condition: two halvings make its 64 pixels 16 latent cells."""


def conditions(scenes: Sequence[Scene]) -> Tensor:
    """Returns the silhouettes of scenes, [N, 3, 64, 64] in [0, 1], 1 inside of a shape."""
    return torch.from_numpy(np.stack([silhouette(scene) for scene in scenes])).permute(0, 3, 1, 2).float() / 255


class ControlStudent(torch.nn.Module):
    """A ControlNet with the UNet's further arguments for an answer."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor, condition: Tensor) -> dict[str, Any]:
        down, mid = self.net(noisy, timesteps, states, condition, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


class PluginStudent(torch.nn.Module):
    """A plugin with the UNet's further arguments for an answer."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor, condition: Tensor) -> dict[str, Any]:
        return {"down_intrablock_additional_residuals": self.net(condition)}


def fresh_controlnet(base: Any) -> Any:
    """Returns the ControlNet of a UNet as it is before training."""
    return MobileControlNetModel.from_unet(base, EMBEDDING)


def fresh_plugin(base: Any) -> Any:
    """Returns the plugin of a UNet as it is before training."""
    return MobileControlPlugin(
        conditioning_stride=IMAGE_SIZE // LATENT_SIZE, block_out_channels=base.config.block_out_channels
    )


def train_control(config: MobileConfig, world: World, progress: Progress) -> Any:
    """Trains a ControlNet on silhouettes, or returns the finished one.

    Args:
        config: the run.
        world: data.
        progress: called with step, steps and loss.
    """
    if (net := finished(config, CONTROL, MobileControlNetModel)) is not None:
        return net
    base = train_base(config, world, progress)
    torch.manual_seed(config.seed)
    return _trained(config, world, CONTROL, base, ControlStudent(fresh_controlnet(base)), config.control, progress)


def train_plugin(config: MobileConfig, world: World, progress: Progress) -> Any:
    """Trains a light plugin on silhouettes, or returns the finished one; as `train_control`."""
    if (net := finished(config, PLUGIN, MobileControlPlugin)) is not None:
        return net
    base = train_base(config, world, progress)
    torch.manual_seed(config.seed)
    return _trained(config, world, PLUGIN, base, PluginStudent(fresh_plugin(base)), config.plugin, progress)


def _trained(
    config: MobileConfig, world: World, name: str, base: Any, student: Any, stage: Stage, progress: Progress
) -> Any:
    trainer = module_trainer(config, name, student, stage)
    base.to(trainer.accelerator.device)

    def loss_at(step: int) -> Tensor:
        # Both adapters see the same batches.
        batch = world.batch((config.seed, 40, step), stage.batch, EMPTY)
        rows = batch.noisy, batch.timesteps, batch.states, conditions(batch.scenes), batch.noise
        noisy, timesteps, states, condition, noise = (trainer.share(x) for x in rows)
        residuals = trainer.module(noisy, timesteps, states, condition)
        predicted = base(noisy, timesteps, states, return_dict=False, **residuals)[0]
        return world.loss(predicted, noise, timesteps)

    trainer.run(loss_at, config.output / f"log-{name}.jsonl", config.save_every, progress)
    return keep(config, name, trainer)
