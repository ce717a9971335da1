"""Stage "recover": a base of many guided steps again, out of a UNet that was distilled to few.

    L = mean w(t)·‖ε_S(x_t, t, c) − ε_T(x_t, t, c)‖²,   ε_T of `shapes-64`

Adapters are trained on the base (Zhao et al., arXiv 2311.16567, section 5.3), and what ships is the distilled UNet
alone. This makes them trainable from what ships, without the hours of the stages before "relu".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints import open_checkpoint
from sdmobile.checkpoints.load import load_model
from sdmobile.errors import CheckpointError
from sdmobile.models.unet import MobileUNet2DConditionModel, declare
from sdmobile.training.mobile.config import unet_config
from sdmobile.training.mobile.relu import train_relu
from sdmobile.training.mobile.structure import fit_to_teacher
from sdmobile.training.mobile.student import copy_of, finished

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.training.loop import Progress
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.world import World

NAME = "recover"


def train_base(config: MobileConfig, world: World, progress: Progress) -> Any:
    """Returns the UNet that adapters are trained on: what stage "relu" leaves, or `config.distilled` made a base again.

    Args:
        config: the run.
        world: teacher and data.
        progress: called with step, steps and loss.
    """
    if config.distilled is None:
        return train_relu(config, world, progress)
    if (unet := finished(config, NAME)) is not None:
        return unet
    return fit_to_teacher(config, world, progress, NAME, distilled_unet(config.distilled), config.recover)


def distilled_unet(path: Path) -> Any:
    """Returns a UNet of `train mobile` that predicts noise, no longer declared to be distilled.

    Args:
        path: of the checkpoint, or the name of one that ships.

    Raises:
        CheckpointError: if its UNet is another than the stages'.
    """
    unet = load_model(open_checkpoint(path), "unet")
    built = unet_config()
    if not isinstance(unet, MobileUNet2DConditionModel) or any(
        _listed(unet.config[key]) != _listed(built[key]) for key in built
    ):
        raise CheckpointError(
            "the adapters' base is made of a UNet as `sdmobile train mobile` builds it",
            f"that of {path} is another",
            "Give shapes-64-mobile, or a checkpoint that a stage left.",
        )
    student = copy_of(unet)
    declare(student, distilled_guidance_scale=None)
    return student


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
