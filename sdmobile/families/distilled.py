"""Stable Diffusion distilled to few steps, whose guidance went into the weights: Turbo, Lightning, Hyper-SD, DMD2, LCM.

    ε = UNet(x_t, t, c)        one row; no unconditional one, which would be multiplied by 1 − s = 0

Sauer et al., "Adversarial Diffusion Distillation", arXiv 2311.17042; Luo et al., "LCM-LoRA", arXiv 2311.05556; Zheng et
al., "Trajectory Consistency Distillation", arXiv 2402.19159; Lin et al., "SDXL-Lightning", arXiv 2402.13929; Ren et
al., "Hyper-SD", arXiv 2404.13686; Yin et al., "Improved Distribution Matching Distillation", arXiv 2405.14867. The
networks are Stable Diffusion's: the scheduler alone tells that a checkpoint is one (`few_steps.few_steps`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sdmobile.families import apple
from sdmobile.families.component import BATCH2, SEPARATE, UNGUIDED, Config, Shapes
from sdmobile.families.family import Family
from sdmobile.families.few_steps import few_steps
from sdmobile.families.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from sdmobile.families.facts import Facts


class DistilledToFewSteps(Family):
    """What a family's version for few steps states besides `base`; it stands before that family among its bases."""

    base: ClassVar[type[Family]]
    """The family whose networks they are."""
    guidances = (UNGUIDED, BATCH2, SEPARATE)
    default_steps = 4
    default_guidance_scale = 1.0
    guidance_rule = (
        "Guidance was distilled into the UNet, whose prediction of the text's row is used as it is (where there are "
        "two rows, and for a guidance scale s above 1, it is uncond + s·(text − uncond))"
    )
    app_use: Mapping[str, str] = {}
    app_scripts = Family.app_scripts

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        return False

    def claims_file(self, shapes: Shapes) -> bool:
        return False

    def claims_sampling(self, family: Family, scheduler_config: Config, guidance_scale: float | None) -> bool:
        guided = guidance_scale is not None and guidance_scale > 1
        return type(family) is self.base and not guided and few_steps(scheduler_config) is not None

    def app_differences(self, target: str, facts: Facts) -> list[str]:
        if target != "ios":
            return []
        few = few_steps(facts.scheduler_config)
        sampler = facts.scheduler_config.get("_class_name")
        one = " or, in one step, gives a guidanceScale below 1 and its DPM-Solver++" if few and few.steps == 1 else ""
        return [
            f"Apple's Swift package has no {sampler}: the app runs the files itself, by scheduler.json and "
            f"metadata.json{one}",
            *apple.control_differences(self.controls, self.guidances[:1]),
        ]


class FewStepStableDiffusion(DistilledToFewSteps, StableDiffusion):
    """Recognised by its scheduler, after the models were found to be Stable Diffusion's."""

    name = "stable-diffusion-few-steps"
    title = "Stable Diffusion, distilled to few steps"
    base = StableDiffusion
