"""Tiny random control networks for the tiny MobileDiffusion; none of their convolutions is zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sdmobile.models.controlnet import MobileControlNetModel
from sdmobile.models.plugin import MobileControlPlugin
from sdmobile.models.unet import MobileUNet2DConditionModel
from tests.families.tiny.mobile_diffusion import UNET

KINDS = ("controlnet", "plugin")


def write_control(kind: str, folder: Path, **changes: Any) -> Path:
    """Writes a network in Diffusers' format, with changes to its configuration."""
    torch.manual_seed(3)
    if kind == "controlnet":
        unet: Any = MobileUNet2DConditionModel(**{**UNET, **changes})
        net: Any = MobileControlNetModel.from_unet(unet, (8, 16))
    else:
        plugin = {"conditioning_stride": 2, "block_out_channels": UNET["block_out_channels"], "channels": (8, 16)}
        net = MobileControlPlugin(**{**plugin, "stem_channels": 8, **changes})
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
    net.save_pretrained(folder)
    return folder
