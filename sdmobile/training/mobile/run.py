"""The stages in order, each from where it stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from accelerate import PartialState

from sdmobile.basics.files import write_json
from sdmobile.training.mobile.adversarial import train_adversarial
from sdmobile.training.mobile.assemble import assemble
from sdmobile.training.mobile.control import train_control, train_plugin
from sdmobile.training.mobile.decoder import teachers_autoencoder, thin_decoder, train_decoder
from sdmobile.training.mobile.guidance import train_guidance
from sdmobile.training.mobile.inpaint import NAME as INPAINT
from sdmobile.training.mobile.inpaint import carried_over, train_inpaint
from sdmobile.training.mobile.lora import train_lora
from sdmobile.training.mobile.pairs import train_regression
from sdmobile.training.mobile.progressive import train_progressive
from sdmobile.training.mobile.recover import NAME as RECOVERED
from sdmobile.training.mobile.recover import distilled_unet
from sdmobile.training.mobile.relu import NAME as BASE
from sdmobile.training.mobile.relu import train_relu
from sdmobile.training.mobile.structure import train_structure
from sdmobile.training.mobile.student import finished
from sdmobile.training.mobile.world import open_world

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdmobile.training.mobile.config import MobileConfig

STAGES = {
    "structure": train_structure,
    "decoder": train_decoder,
    "relu": train_relu,
    "guidance": train_guidance,
    "progressive": train_progressive,
    "regression": train_regression,
    "adversarial": train_adversarial,
    "lora": train_lora,
    "inpaint": train_inpaint,
    "control": train_control,
    "plugin": train_plugin,
}
"""Each trains what it needs of those before it, where that is not done."""
ON_BASE = ("lora", "inpaint", "control", "plugin")
"""Stages that learn on the base and leave it as it is."""

STEPS = {
    "structure": 20,
    RECOVERED: 20,
    "relu": 20,
    "guidance": 8,
    "progressive-4": 4,
    "progressive-2": 2,
    "regression": 1,
    "adversarial": 1,
}
"""Sampling steps of the UNet that each stage leaves."""
AFTER_BASE = list(STEPS)[list(STEPS).index(BASE) + 1 :]
"""Stages whose UNets began as the one that the adapters are trained on."""


def train_mobile(config: MobileConfig, stages: Sequence[str], report: Callable[[str, int, int, float], None]) -> None:
    """Trains the named stages, each from where it stopped; what is finished lies in `<output>/checkpoint-<stage>`.

    Args:
        config: the run; `config.output` keeps its state.
        stages: names in STAGES.
        report: called with stage, step, steps and loss.

    Raises:
        CheckpointError: if the base cannot be made of `config.distilled`.
    """
    if config.distilled is not None:
        distilled_unet(config.distilled)  # refused before the hours, not after
    state = PartialState(cpu=not torch.cuda.is_available())
    with state.main_process_first():  # which encodes the scenes for all
        world = open_world(config)
    if state.is_main_process:
        write_json(config.output / "config.json", config.to_json())
    for name in stages:
        STAGES[name](config, world, lambda *at, name=name: report(name, *at))
        if state.is_main_process:
            _write_checkpoints(config)
        state.wait_for_everyone()


def _write_checkpoints(config: MobileConfig) -> None:
    """Writes a checkpoint folder of every UNet that is finished; with the thin decoder, where that is."""
    vae = thin_decoder(config) or teachers_autoencoder()
    unets = {stage: unet for stage in STEPS if (unet := finished(config, stage)) is not None}
    for stage, unet in unets.items():
        assemble(unet, vae, config.output / f"checkpoint-{stage}", STEPS[stage])
    trained = finished(config, INPAINT)
    if trained is None:
        return
    assemble(trained, vae, config.output / f"checkpoint-{INPAINT}", STEPS[BASE])
    if config.distilled is not None:  # the run's own stages did not begin as that base
        return
    for stage in [stage for stage in unets if stage in AFTER_BASE]:
        unet = carried_over(trained, unets[BASE], unets[stage])
        assemble(unet, vae, config.output / f"checkpoint-{INPAINT}-{stage}", STEPS[stage])
