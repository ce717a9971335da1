"""The stages in order, each from where it stopped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdmobile.training.mobile.adversarial import train_adversarial
from sdmobile.training.mobile.assemble import assemble
from sdmobile.training.mobile.control import train_control, train_plugin
from sdmobile.training.mobile.decoder import teachers_autoencoder, thin_decoder, train_decoder
from sdmobile.training.mobile.guidance import train_guidance
from sdmobile.training.mobile.pairs import train_regression
from sdmobile.training.mobile.progressive import train_progressive
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
    "control": train_control,
    "plugin": train_plugin,
}
"""Each trains what it needs of those before it, where that is not done."""

STEPS = {
    "structure": 20,
    "relu": 20,
    "guidance": 8,
    "progressive-4": 4,
    "progressive-2": 2,
    "regression": 1,
    "adversarial": 1,
}
"""Sampling steps of the UNet that each stage leaves."""


def train_mobile(config: MobileConfig, stages: Sequence[str], report: Callable[[str, int, int, float], None]) -> None:
    """Trains the named stages, each from where it stopped; what is finished lies in `<output>/checkpoint-<stage>`.

    Args:
        config: the run; `config.output` keeps its state.
        stages: names in STAGES.
        report: called with stage, step, steps and loss.
    """
    world = open_world(config)
    (config.output / "config.json").write_text(json.dumps(config.to_json(), indent=2) + "\n")
    for name in stages:
        STAGES[name](config, world, lambda *at, name=name: report(name, *at))
        _write_checkpoints(config)


def _write_checkpoints(config: MobileConfig) -> None:
    """Writes a checkpoint folder of every UNet that is finished; with the thin decoder, where that is."""
    vae = thin_decoder(config) or teachers_autoencoder()
    for stage, steps in STEPS.items():
        unet = finished(config, stage)
        if unet is not None:
            assemble(unet, vae, config.output / f"checkpoint-{stage}", steps)
