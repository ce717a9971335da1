"""InstructPix2Pix: a UNet that takes the latent of a whole picture beside the noisy one; the prompt instructs.

    sample = [x_t, E(I)]                                                 along the channels: 2·C of them, predicting C
    ε = ε(0, ∅) + s_I·(ε(I, ∅) − ε(0, ∅)) + s_T·(ε(I, text) − ε(I, ∅))     three rows: the picture guides, too

Brooks et al., "InstructPix2Pix", arXiv 2211.09800, equation 3. E is the mean of the encoder's distribution, which is
**not** multiplied by the scaling factor; order of channels and rows as in Diffusers'
StableDiffusionInstructPix2PixPipeline, where row 0 has text and picture, row 1 the picture, row 2 neither.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmobile.families import autoencoder, clip, unet
from sdmobile.families.component import Config, Guidance, Kind, Row, Shapes, Value
from sdmobile.families.edit import Edit, coloured_blocks
from sdmobile.families.family import Family
from sdmobile.families.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.families.component import Encode
    from sdmobile.families.facts import Facts
    from sdmobile.formats.bundle.contracts import Geometry

_PIPELINE = "StableDiffusionInstructPix2PixPipeline"
_IN, _OUT = f"{unet.PREFIX}input_blocks.0.0.weight", f"{unet.PREFIX}out.2.weight"
_GUIDED = "prediction = uncond + image_scale * (image - uncond) + scale * (text - image)"
_UNGUIDED = "at a scale of at most 1, prediction = text"
_BATCH3 = Guidance("batch3", rows=3, calls=1, texts=2, sentence="all three guidance rows in one UNet call")
_SEPARATE = Guidance("separate", rows=1, calls=3, texts=2, sentence="one UNet call per row, of three")

_UNET = dataclasses.replace(
    unet.UNET,
    summary="Denoiser for edits by instruction: noisy latents with those of the picture, timestep and text features to "
    "a prediction",
    inputs=(
        Value(
            "sample",
            Kind.PIXELS,
            lambda g: (g.batch, 2 * g.latent_channels, g.latent_height, g.latent_width),
            "Noisy latents, then the latents of the picture, along the channels, {rows}",
        ),
        *unet.UNET.inputs[1:],
    ),
)


class InstructPix2Pix(StableDiffusion):
    """Recognised by its pipeline and the UNet's input channels: twice those of a latent."""

    name = "instruct-pix2pix"
    title = "InstructPix2Pix"
    components = (clip.TEXT_ENCODER, _UNET, autoencoder.DECODER, autoencoder.ENCODER)
    control_parts = ()  # nobody made control networks for this UNet
    guidances = (_BATCH3, _SEPARATE)
    guidance_rows = (
        Row("text", prompt=True),
        Row("image", prompt=False),
        Row("uncond", prompt=False, picture=False),
    )
    rows_order = "row 0 with text and picture, row 1 with the picture alone, row 2 with neither"
    default_image_guidance_scale = 1.5
    takes_picture = True
    task = "image-to-image"
    tag = "instruct-pix2pix"
    guidance_rule = (
        "`sample` is the noisy latents and the picture's latents, joined along the channels (`instruct_pix2pix` in "
        "`metadata.json`); with guidance scale s and image guidance scale i, the prediction is "
        "uncond + i·(image − uncond) + s·(text − image)"
    )
    app_use: Mapping[str, str] = {}
    app_scripts = Family.app_scripts

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        inputs, latent = configs.get("unet", {}).get("in_channels", 4), configs.get("vae", {}).get("latent_channels", 4)
        return index.get("_class_name") == _PIPELINE and isinstance(latent, int) and inputs == 2 * latent

    def claims_file(self, shapes: Shapes) -> bool:
        inputs, outputs = shapes.get(_IN, ()), shapes.get(_OUT, ())
        return len(inputs) == len(outputs) == 4 and inputs[1] == 2 * outputs[0]

    def file_latent_size(
        self, metadata: Mapping[str, str], configs: Mapping[str, Config], names: Sequence[str], notes: list[str]
    ) -> tuple[int, int]:
        notes.append(
            "unet: the file does not say what the channels beside the noisy latent are; those of a picture to change "
            f"by instruction assumed ({self.title})"
        )
        return super().file_latent_size(metadata, configs, names, notes)

    def denoiser_channels(self, latent_channels: int) -> int:
        return 2 * latent_channels

    def usual_edit(self, seed: int, geometry: Geometry) -> Edit | None:
        """Returns blocks of random colours, the whole of which may be changed."""
        return Edit(coloured_blocks(seed, geometry.image_height, geometry.image_width))

    def beside_latent(
        self, edit: Edit, geometry: Geometry, scaling_factor: float, encode: Encode
    ) -> NDArray[np.float32] | None:
        return encode(edit.image)

    def guide(
        self, rows: Sequence[NDArray[np.float32]], scale: float, image_scale: float | None
    ) -> NDArray[np.float32]:
        import numpy as np

        with_text, with_picture, without = rows
        by_picture = np.float32(self.default_image_guidance_scale if image_scale is None else image_scale)
        return without + np.float32(scale) * (with_text - with_picture) + by_picture * (with_picture - without)

    def scheduler_document(
        self, config: Mapping[str, Any], scaling_factor: float, shift_factor: float = 0.0
    ) -> dict[str, Any]:
        return super().scheduler_document(config, scaling_factor, shift_factor) | {
            "guidance": f"{_GUIDED}; {_UNGUIDED}"
        }

    def app_differences(self, target: str, facts: Facts) -> list[str]:
        if target != "ios":
            return []
        return [
            "Apple's Swift package gives the UNet noisy latents alone, and two rows: the app runs the files itself, by "
            "scheduler.json and metadata.json"
        ]

    def app_facts(self, facts: Facts) -> dict[str, Any]:
        c = facts.latent_channels
        return {
            "instruct_pix2pix": {
                "input": "sample",
                "channels": {"noisy_latents": [0, c], "image_latents": [c, 2 * c]},
                "image_latents": f"the first {c} channels of the image encoder's output for the picture in [-1, 1] "
                "(the mean, nothing is drawn), not multiplied by scaling_factor",
                "scaled": "only noisy_latents are scaled by the sampler; image_latents are the same in every step",
                "rows": [
                    {
                        "name": row.name,
                        "text": "the prompt" if row.prompt else "the negative text, usually empty",
                        "image_latents": "the picture's" if row.picture else "zeros",
                    }
                    for row in self.guidance_rows
                ],
                "guidance": _GUIDED,
                "unguided": f"{_UNGUIDED}, which needs the first row alone",
                "image_scale": self.default_image_guidance_scale,
            },
        }
