"""Inpainting: a UNet that takes a mask and the rest of the picture beside the noisy latent.

    sample = [x_t, m, E((1 − M)·I)]        along the channels: C + 1 + C of them, predicting C

I is the picture in [-1, 1], M its mask (1 is repainted), m the mask at every cell's first pixel, and E the mean of the
encoder's distribution times the scaling factor. Rombach et al., arXiv 2112.10752, section 4.5; order and mask as in
Diffusers' StableDiffusionInpaintPipeline, which draws from the distribution where this takes its mean (`sample_mode`
"argmax"), so that a phone computes the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.families import apple, autoencoder, clip, unet
from sdmobile.families.component import Config, Kind, Shapes, Value
from sdmobile.families.edit import Edit, coloured_blocks
from sdmobile.families.family import Family
from sdmobile.families.mobile_diffusion import FewStepMobileDiffusion, MobileDiffusion
from sdmobile.families.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.families.component import Encode
    from sdmobile.families.facts import Facts
    from sdmobile.formats.bundle.contracts import Geometry

_IN, _OUT = f"{unet.PREFIX}input_blocks.0.0.weight", f"{unet.PREFIX}out.2.weight"
_SAMPLE = "Noisy latents, then the mask, then the latents of the masked picture, along the channels, {rows}"


def widened(latent_channels: int) -> int:
    """Returns the input channels of an inpainting UNet: noisy latent, mask, latent of the masked picture."""
    return 2 * latent_channels + 1


_UNET = dataclasses.replace(
    unet.UNET,
    summary="Denoiser for inpainting: noisy latents with mask and masked picture, timestep and text features to a "
    "prediction",
    inputs=(
        Value(
            "sample",
            Kind.PIXELS,
            lambda g: (g.batch, widened(g.latent_channels), g.latent_height, g.latent_width),
            _SAMPLE,
        ),
        *unet.UNET.inputs[1:],
    ),
)


class StableDiffusionInpainting(StableDiffusion):
    """Recognised by the UNet's input channels: twice those of a latent and one."""

    name = "stable-diffusion-inpainting"
    title = "Stable Diffusion inpainting"
    components = (clip.TEXT_ENCODER, _UNET, autoencoder.DECODER, autoencoder.ENCODER)
    takes_picture = takes_mask = True
    task = "image-to-image"
    guidance_rule = (
        "`sample` is the noisy latents, the mask and the masked picture's latents, joined along the channels "
        "(`inpainting` in `metadata.json`); with guidance scale s, the prediction is uncond + s·(text − uncond)"
    )
    app_use: Mapping[str, str] = {}
    app_scripts = Family.app_scripts

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        inputs, latent = configs.get("unet", {}).get("in_channels", 4), configs.get("vae", {}).get("latent_channels", 4)
        return super().claims(index, configs) and isinstance(latent, int) and inputs == widened(latent)

    def claims_file(self, shapes: Shapes) -> bool:
        inputs, outputs = shapes.get(_IN, ()), shapes.get(_OUT, ())
        return super().claims_file(shapes) and len(inputs) == len(outputs) == 4 and inputs[1] == widened(outputs[0])

    def denoiser_channels(self, latent_channels: int) -> int:
        return widened(latent_channels)

    def usual_edit(self, seed: int, geometry: Geometry) -> Edit | None:
        """Returns blocks of random colours, of which the middle square is repainted."""
        import numpy as np

        height, width = geometry.image_height, geometry.image_width
        mask = np.zeros((1, 1, height, width), np.float32)
        mask[..., height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
        return Edit(coloured_blocks(seed, height, width), mask)

    def beside_latent(
        self, edit: Edit, geometry: Geometry, scaling_factor: float, encode: Encode
    ) -> NDArray[np.float32] | None:
        import numpy as np

        mask = np.ones_like(edit.image[:, :1]) if edit.mask is None else edit.mask
        masked = encode(edit.image * (mask < 0.5)) * np.float32(scaling_factor)
        steps = (geometry.image_height // geometry.latent_height, geometry.image_width // geometry.latent_width)
        return np.concatenate([mask[..., :: steps[0], :: steps[1]], masked], axis=1).astype(np.float32)

    def app_differences(self, target: str, facts: Facts) -> list[str]:
        if target != "ios":
            return []
        alone = (
            "Apple's Swift package gives the UNet noisy latents alone: the app runs the files itself, by "
            "scheduler.json and metadata.json"
        )
        return [alone, *apple.control_differences(self.controls, self.guidances)]

    def app_facts(self, facts: Facts) -> dict[str, Any]:
        c = facts.latent_channels
        return {
            **super().app_facts(facts),
            "inpainting": {
                "input": "sample",
                "channels": {"noisy_latents": [0, c], "mask": [c, c + 1], "masked_image_latents": [c + 1, 2 * c + 1]},
                "mask": f"1 where it is repainted, else 0; of cell (i, j), the pixel ({facts.vae_scale_factor} * i, "
                f"{facts.vae_scale_factor} * j)",
                "masked_image": "image in [-1, 1] where the mask is 0, and 0 where it is 1",
                "masked_image_latents": f"the first {c} channels of the image encoder's output for masked_image (the "
                f"mean, nothing is drawn) * {facts.scaling_factor:g}",
                "scaled": "only noisy_latents are scaled by the sampler; mask and masked_image_latents are the same in "
                "every step and row",
            },
        }


class MobileDiffusionInpainting(StableDiffusionInpainting, MobileDiffusion):
    """MobileDiffusion's models with the widened UNet."""

    name = "mobile-diffusion-inpainting"
    title = "MobileDiffusion inpainting"
    models = MobileDiffusion.models
    tag = MobileDiffusion.tag


class FewStepMobileDiffusionInpainting(MobileDiffusionInpainting, FewStepMobileDiffusion):
    """The same, with guidance distilled into the UNet."""

    name = "mobile-diffusion-inpainting-few-steps"
    title = "MobileDiffusion inpainting, distilled to few steps"
    guidance_rule = (
        "`sample` is the noisy latents, the mask and the masked picture's latents, joined along the channels "
        "(`inpainting` in `metadata.json`); guidance was distilled into the UNet, whose prediction is used as it is"
    )
