"""Model families: what a checkpoint consists of, how a prompt becomes arrays, how it is sampled, names on phones.

One file states one family; what several share (CLIP, UNet, autoencoder, schedulers) are parts in files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdmobile.errors import UnsupportedError
from sdmobile.families.component import Config
from sdmobile.families.control import controls_from_json
from sdmobile.families.distilled import FewStepStableDiffusion
from sdmobile.families.family import Family
from sdmobile.families.flux2_klein import Flux2Klein, Flux2KleinBase
from sdmobile.families.inpainting import (
    FewStepMobileDiffusionInpainting,
    MobileDiffusionInpainting,
    StableDiffusionInpainting,
)
from sdmobile.families.instruct_pix2pix import InstructPix2Pix
from sdmobile.families.latent_consistency import LatentConsistency
from sdmobile.families.mobile_diffusion import FewStepMobileDiffusion, MobileDiffusion
from sdmobile.families.pixart_sigma import PixArtSigma
from sdmobile.families.sana_sprint import SanaSprint
from sdmobile.families.stable_diffusion import StableDiffusion
from sdmobile.families.stable_diffusion_3 import StableDiffusion3
from sdmobile.families.stable_diffusion_xl import FewStepStableDiffusionXL, StableDiffusionXL
from sdmobile.families.z_image import ZImage

FAMILIES: tuple[Family, ...] = (
    LatentConsistency(),
    FewStepMobileDiffusionInpainting(),
    FewStepMobileDiffusion(),
    MobileDiffusionInpainting(),
    MobileDiffusion(),
    PixArtSigma(),
    SanaSprint(),
    StableDiffusion3(),
    ZImage(),
    Flux2Klein(),
    Flux2KleinBase(),
    FewStepStableDiffusionXL(),
    StableDiffusionXL(),
    StableDiffusionInpainting(),
    InstructPix2Pix(),
    FewStepStableDiffusion(),
    StableDiffusion(),
)
"""In the order in which they are asked whether a checkpoint is theirs; the last one takes, or refuses, what is left."""


def sampled_by(family: Family, scheduler_config: Config, guidance_scale: float | None) -> Family:
    """Returns the family of a checkpoint whose models are known, by how it is sampled.

    Args:
        family: that claimed the models.
        scheduler_config: the checkpoint's.
        guidance_scale: that its card asks for, None where it does not say.
    """
    claims = (other for other in FAMILIES if other.claims_sampling(family, scheduler_config, guidance_scale))
    return next(claims, family)


def family_named(name: str) -> Family:
    """Returns a family by its name, as a bundle's manifest has it.

    Raises:
        UnsupportedError: there is none of that name.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    raise UnsupportedError(
        "the model family must be a known one", name, f"Known are {', '.join(family.name for family in FAMILIES)}"
    )


def family_of(manifest: Mapping[str, Any]) -> Family:
    """Returns the family of a bundle's manifest; one that names none is of Stable Diffusion, once the only family.

    Raises:
        UnsupportedError: there is no such family, or it has no component or way of guidance that the manifest names.
    """
    family = family_named(manifest.get("family") or StableDiffusion.name)
    family = family.with_controls(controls_from_json(manifest.get("control")))
    for name in manifest.get("components", ()):
        family.component(name)
    if "guidance" in manifest:
        family.guidance(manifest["guidance"])
    return family


def component_names() -> tuple[str, ...]:
    """Returns the names of all families' components, each once."""
    return tuple(dict.fromkeys(name for family in FAMILIES for name in family.names))
