"""PixArt-Σ: T5 as the text encoder, a diffusion transformer, the autoencoder of Stable Diffusion XL.

Chen et al., "PixArt-Σ: Weak-to-Strong Training of Diffusion Transformer for 4K Text-to-Image Generation", arXiv
2403.04692.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import autoencoder, pixart, t5, tokenizer_kinds
from sdmobile.families.component import BATCH2, SEPARATE, Config
from sdmobile.families.facts import Facts
from sdmobile.families.mmdit import patch_size
from sdmobile.families.own_loop import OwnLoop
from sdmobile.families.schedulers import OVERRIDDEN, check_schedule, prediction_type

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.families.component import Arrays, Run
    from sdmobile.formats.bundle.contracts import Geometry

TEXT_LENGTH = 300
"""Tokens of a text: the paper's, section 3.1, and those of Diffusers' pipeline."""
_OFFSET = "steps_offset"
_MOST_PLACES = 256
"""Tokens along a side of the pictures that a network was trained on: four times those of 1024 pixels."""


class PixArtSigma(OwnLoop):
    """Recognised by its pipeline or its transformer."""

    name = "pixart-sigma"
    title = "PixArt-Σ"
    models = (t5.MODEL, pixart.MODEL, autoencoder.MODEL)
    components = (t5.text_encoder(TEXT_LENGTH), pixart.TRANSFORMER, autoencoder.DECODER, autoencoder.ENCODER)
    tokenizer_kind = dataclasses.replace(tokenizer_kinds.T5, lowers=True)
    guidances = (
        dataclasses.replace(BATCH2, sentence="both guidance rows in one call of the transformer"),
        dataclasses.replace(SEPARATE, sentence="one call of the transformer per row"),
    )
    default_guidance_scale = 4.5
    tag = "pixart-sigma"
    guidance_rule = (
        "With guidance scale s, the prediction is uncond + s·(text − uncond); each row takes its text's features and "
        "mask (`conditioning` in `metadata.json`)"
    )

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        stated = str(index.get("_class_name"))
        return "PixArt" in stated or configs.get("transformer", {}).get("_class_name") == pixart.MODEL.classes[0]

    def check_index(self, index: Mapping[str, Any], path: Path) -> None:
        if "Alpha" in str(index.get("_class_name")):
            raise UnsupportedError(
                "the pipeline must be one of PixArt-Σ",
                f"{index['_class_name']}: PixArt-α, whose texts and autoencoder are others",
                "Give a checkpoint of PixArt-Σ.",
            )
        super().check_index(index, path)

    def facts(self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]) -> Facts:
        check_schedule(scheduler_config)
        _check_spacing(scheduler_config)
        text, transformer, vae = (configs[model.name] for model in self.models)
        pixart.check(transformer)
        patch = patch_size(transformer)
        _check_fit(text, transformer, vae)
        size = _size(transformer, patch)
        return Facts(
            scheduler_config=scheduler_config,
            latent_channels=vae["latent_channels"],
            latent_size=(size, size),
            vae_scale_factor=autoencoder.scale_factor(vae),
            scaling_factor=autoencoder.scaling_factor(vae, notes),
            context_length=TEXT_LENGTH,
            context_dim=text["d_model"],
            prediction_type=prediction_type(scheduler_config, notes),
            latent_multiple=patch,
        )

    def encode(self, token_ids: NDArray[np.int64], run: Run, geometry: Geometry) -> Arrays:
        import numpy as np

        features = run("text_encoder", {"input_ids": token_ids})["last_hidden_state"]
        return {"encoder_hidden_states": features, pixart.MASK: (token_ids != t5.PAD).astype(np.float32)}

    def app_facts(self, facts: Facts) -> dict[str, Any]:
        return {
            "conditioning": {
                "encoder_hidden_states": "last_hidden_state of text_encoder",
                pixart.MASK: f"1 where input_ids of text_encoder is not {t5.PAD}, else 0: the token that ends the "
                "text counts, what fills it up does not",
                "empty_negative_text": "encoded as any other",
            }
        }


def _check_spacing(config: Config) -> None:
    """Raises UnsupportedError for timesteps that begin elsewhere than those of Stable Diffusion's pipelines."""
    offset, usual = config.get(_OFFSET, 0), OVERRIDDEN[_OFFSET]
    if config.get("timestep_spacing") == "leading" and offset != usual:
        raise UnsupportedError(
            f"leading timesteps must have {_OFFSET} = {usual}", offset, "Give the scheduler that PixArt-Σ came with."
        )


def _check_fit(text: Config, transformer: Config, vae: Config) -> None:
    """Raises CheckpointError unless the models fit each other."""
    latent, inputs, outputs = vae.get("latent_channels"), transformer["in_channels"], transformer["out_channels"]
    if type(latent) is not int or inputs != latent or outputs not in (latent, 2 * latent):
        raise CheckpointError(
            "transformer and VAE must have the same latent channels",
            f"transformer {inputs} in, {outputs} out (twice as many with a learned variance); VAE {latent}",
        )
    if transformer["caption_channels"] != text.get("d_model"):
        raise CheckpointError(
            "the transformer must take the text encoder's features",
            f"transformer {transformer['caption_channels']}, text encoder {text.get('d_model')}",
        )
    heads, each = transformer.get("num_attention_heads", 16), transformer.get("attention_head_dim", 72)
    width = transformer.get("cross_attention_dim")
    if type(heads) is not int or type(each) is not int or heads * each != width:
        raise CheckpointError(
            "the heads of the transformer must have the width of its weights",
            f"{heads} heads of {each} features, weights of {width}",
        )


def _size(transformer: Config, patch: int) -> int:
    """Returns the latent cells along one side that a transformer was trained on."""
    size = transformer.get("sample_size", 128)
    if type(size) is not int or not 0 < size <= patch * _MOST_PLACES or size % patch:
        rule = (
            f"sample_size of the transformer must be a multiple of {patch} latent cells, up to {patch * _MOST_PLACES}"
        )
        raise CheckpointError(rule, size)
    return size
