"""MobileDiffusion: Stable Diffusion's text encoder and sampling, with a UNet and a decoder made for phones.

Zhao et al., "MobileDiffusion: Instant Text-to-Image Generation on Mobile Devices", arXiv 2311.16567. Once its guidance
is distilled into the UNet it has no unconditional row, and a picture takes few calls or one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError
from sdmobile.families import apple, clip, mobile_control, mobile_unet
from sdmobile.families.component import UNGUIDED, Config, Shapes
from sdmobile.families.schedulers import finite_positive
from sdmobile.families.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from sdmobile.families.facts import Facts

_DISTILLED = "distilled_guidance_scale"


class MobileDiffusion(StableDiffusion):
    """Recognised by the class of its UNet."""

    name = "mobile-diffusion"
    title = "MobileDiffusion"
    models = (clip.MODEL, mobile_unet.UNET, mobile_unet.VAE)
    control_parts = (mobile_control.CONTROLNET, mobile_control.PLUGIN)
    distillable = False  # its UNet says it
    tag = "mobile-diffusion"

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        entry = index.get("unet")
        return isinstance(entry, list) and entry[-1:] == [mobile_unet.UNET_CLASS]

    def claims_file(self, shapes: Shapes) -> bool:
        return False


class FewStepMobileDiffusion(MobileDiffusion):
    """Its UNet says by `distilled_guidance_scale` that the caption's row alone gives the guided prediction."""

    name = "mobile-diffusion-few-steps"
    title = "MobileDiffusion, distilled to few steps"
    guidances = (UNGUIDED,)
    default_steps = 1
    default_guidance_scale = 1.0
    guidance_rule = "Guidance was distilled into the UNet, whose prediction is used as it is"
    app_use: Mapping[str, str] = {"ios": apple.USE_ONE_ROW}

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        return super().claims(index, configs) and configs.get("unet", {}).get(_DISTILLED) is not None

    def facts(self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]) -> Facts:
        scale = configs["unet"][_DISTILLED]
        if not finite_positive(scale):
            raise CheckpointError(f"{_DISTILLED} of the UNet must be a finite number above zero", scale)
        return super().facts(configs, scheduler_config, notes)

    def guided(self, guidance_scale: float) -> bool:
        return False

    def app_differences(self, target: str, facts: Facts) -> list[str]:
        differences = super().app_differences(target, facts)
        if target == "ios":
            differences.append(
                "Apple's Swift package guides at every scale from 1 on, by a second call that changes nothing: give it "
                "a guidanceScale below 1. Its DPM-Solver++ draws what DDIM draws in one step; in two or more its "
                "timesteps differ by one (500 for 499) and so does the picture a little"
            )
        return differences
