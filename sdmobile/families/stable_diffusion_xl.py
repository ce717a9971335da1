"""Stable Diffusion XL: two text encoders, a pooled text and sizes of the picture, and the KL autoencoder.

Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", arXiv 2307.01952.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import apple, autoencoder, clip_pooled, unet, unet_xl
from sdmobile.families.clip_pooled import POOLED, WIDTH
from sdmobile.families.component import Config, Shapes
from sdmobile.families.distilled import DistilledToFewSteps
from sdmobile.families.facts import Facts
from sdmobile.families.schedulers import STABLE_DIFFUSION
from sdmobile.families.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.families.component import Arrays, Run
    from sdmobile.formats.bundle.contracts import Geometry

SCALING_FACTOR = 0.13025
_PIXELS = 1024
_REFINER = "requires_aesthetics_score"
# Of stabilityai/stable-diffusion-xl-base-1.0, for a single file, which has none.
_SCHEDULE = {**STABLE_DIFFUSION, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}


def _base_config(shapes: Shapes, names: Sequence[str]) -> Config:
    return {**autoencoder.MODEL.base_config(shapes, names), "scaling_factor": SCALING_FACTOR}


_VAE = dataclasses.replace(autoencoder.MODEL, base_config=_base_config)


class StableDiffusionXL(StableDiffusion):
    """Recognised by its second text encoder."""

    name = "stable-diffusion-xl"
    title = "Stable Diffusion XL"
    models = (clip_pooled.MODEL, clip_pooled.MODEL_2, unet_xl.MODEL, _VAE)
    components = (
        clip_pooled.TEXT_ENCODER,
        clip_pooled.TEXT_ENCODER_2,
        unet_xl.UNET,
        autoencoder.DECODER,
        autoencoder.ENCODER,
    )
    control_parts = ()
    second_pad = clip_pooled.SECOND_PAD
    word_tensors: ClassVar[Mapping[str, str]] = clip_pooled.WORD_TENSORS
    default_guidance_scale = 5.0
    tag = "stable-diffusion-xl"
    own_marks = ("conditioner.embedders.", f"{unet.PREFIX}label_emb.")
    usual_pixels = (_PIXELS, _PIXELS)
    guidance_rule = (
        "With guidance scale s, the prediction is uncond + s·(text − uncond); both rows take the features of both text "
        "encoders joined, the pooled row of the second, and the sizes (`conditioning` in `metadata.json`)"
    )
    app_use: Mapping[str, str] = {"ios": apple.USE_XL}
    app_scripts: Mapping[str, tuple[str, str]] = {"ios": (apple.SCRIPT, apple.compile_script(apple.PIPELINE_XL))}

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        return "StableDiffusionXL" in str(index.get("_class_name")) or "text_encoder_2" in index

    def claims_file(self, shapes: Shapes) -> bool:
        return any(name.startswith(clip_pooled.SECOND) for name in shapes)

    def check_index(self, index: Mapping[str, Any], path: Path) -> None:
        if index.get(_REFINER):
            raise UnsupportedError(
                f"the pipeline must be one of {self.title}'s base model",
                f"{path}: {_REFINER}: the refiner, which finishes pictures of another model",
                "Give the base model; a phone has no room for both.",
            )
        super().check_index(index, path)

    def facts(self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]) -> Facts:
        facts = super().facts(configs, scheduler_config, notes)
        first, second = configs["text_encoder"], configs["text_encoder_2"]
        if second.get("max_position_embeddings") != facts.context_length:
            raise CheckpointError(
                "both text encoders must take texts of one length",
                f"{facts.context_length} and {second.get('max_position_embeddings')} tokens",
            )
        pooled, wanted = clip_pooled.pooled_width(second, True), unet_xl.pooled_width(configs["unet"])
        if pooled != wanted:
            raise CheckpointError(
                "the UNet must take the second text encoder's pooled text", f"UNet {wanted}, text encoder {pooled}"
            )
        sizes = {
            WIDTH["text_encoder"]: first["hidden_size"],
            WIDTH["text_encoder_2"]: second["hidden_size"],
            POOLED["text_encoder"]: clip_pooled.pooled_width(first, False),
            POOLED["text_encoder_2"]: pooled,
        }
        return dataclasses.replace(facts, sizes=tuple(sizes.items()))

    def context_width(self, configs: Mapping[str, Config]) -> object:
        widths = [configs[name].get("hidden_size") for name in WIDTH]
        return sum(width for width in widths if isinstance(width, int))

    def zeros_where_empty(self, index: Mapping[str, Any]) -> bool:
        return bool(index.get("force_zeros_for_empty_prompt", True))

    def file_scheduler(
        self, metadata: Mapping[str, str], names: Sequence[str], said: Mapping[str, Any], notes: list[str]
    ) -> Config:
        schedule = super().file_scheduler(metadata, names, said, notes)
        if schedule["_class_name"] != STABLE_DIFFUSION["_class_name"]:
            return schedule
        notes.append("scheduler: the file has none; Euler with the betas of Stable Diffusion XL assumed")
        return {**_SCHEDULE, **schedule, "_class_name": _SCHEDULE["_class_name"]}

    def encode(self, token_ids: NDArray[np.int64], run: Run, geometry: Geometry) -> Arrays:
        return clip_pooled.encode(token_ids, run)

    def conditioning(self, guidance_scale: float, geometry: Geometry) -> Arrays:
        import numpy as np

        size = (geometry.image_height, geometry.image_width)
        return {unet_xl.TIME_IDS: np.asarray([[*size, 0, 0, *size]], dtype=np.float32)}

    def tokenizer_differences(self, target: str, pad_token: str, eos_token: str, added: Mapping[str, int]) -> list[str]:
        if pad_token != eos_token:
            raise UnsupportedError(
                "texts for the first text encoder must be filled up with the token that ends them",
                f"{pad_token!r}, not {eos_token!r}",
            )
        return super().tokenizer_differences(target, pad_token, eos_token, added)

    def app_differences(self, target: str, facts: Facts) -> list[str]:
        differences = super().app_differences(target, facts)
        height, width = facts.latent_size
        if target == "ios" and facts.zeros_where_empty:
            differences.append(
                "an empty negative text gives zeros here, as in Diffusers; Apple's Swift package encodes it"
            )
        if target == "ios" and height != width:
            differences.append(
                "Apple's Swift package has one number for height and width of a picture's sizes: it gives the UNet "
                "others than it was exported with"
            )
        return differences

    def app_facts(self, facts: Facts) -> dict[str, Any]:
        context = "hidden_embeds of text_encoder, then of text_encoder_2, joined along the features"
        empty = "zeros in encoder_hidden_states and text_embeds" if facts.zeros_where_empty else "encoded as any other"
        return {
            **super().app_facts(facts),
            "conditioning": {
                "text_encoder_2": {
                    "input_ids": "those of text_encoder, with pad_token_id after the first eos_token_id",
                    "pad_token_id": clip_pooled.SECOND_PAD,
                },
                "encoder_hidden_states": context,
                "empty_negative_text": empty,
                unet_xl.TEXT_EMBEDS: "pooled_outputs of text_encoder_2",
                unet_xl.TIME_IDS: "[height, width, 0, 0, height, width] of the picture in pixels, in every row",
            },
        }


class FewStepStableDiffusionXL(DistilledToFewSteps, StableDiffusionXL):
    """The same, distilled to few steps: Turbo, Lightning, LCM-LoRA; recognised by its scheduler."""

    name = "stable-diffusion-xl-few-steps"
    title = "Stable Diffusion XL, distilled to few steps"
    base = StableDiffusionXL
    guidance_rule = (
        "Guidance was distilled into the UNet, whose prediction of the text's row is used as it is; its further inputs "
        "are described by `conditioning` in `metadata.json`"
    )

    def app_differences(self, target: str, facts: Facts) -> list[str]:
        if target != "ios":
            return []
        return [
            "Apple's Swift package calls a UNet of Stable Diffusion XL with both rows of guidance only: the app runs "
            "the files itself, by scheduler.json and metadata.json"
        ]
