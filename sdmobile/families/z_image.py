"""Z-Image-Turbo: Qwen3 as the text encoder, one stream of text and picture, a KL autoencoder of 16 channels.

    c = h₋₂ of Qwen3 for the tokens of a talk whose only message is the text
    z = x/scaling + shift                                              decoded, of the last latent x

Z-Image team, "Z-Image: An Efficient Image Generation Foundation Model with Single-Stream Diffusion Transformer", arXiv
2511.22699. Turbo was distilled to eight steps without guidance. Diffusers' pipeline calls the network at σ = 1/n last,
so that its nine steps are eight and one that changes little.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import autoencoder, qwen3, single_stream, tokenizer_kinds
from sdmobile.families.component import SEPARATE, UNGUIDED, Config
from sdmobile.families.facts import Facts
from sdmobile.families.flow_matched import FlowMatched
from sdmobile.families.flow_matching import PREDICTION, check_unsized
from sdmobile.families.kept_tables import EVEN_FLOW
from sdmobile.families.own_loop import OwnLoop
from sdmobile.families.stable_diffusion_3 import SHIFTED_DECODER, SHIFTED_VAE

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.families.component import Arrays, Run
    from sdmobile.formats.bundle.contracts import Geometry

TEXT_LENGTH = 512
"""Tokens of a text: those of Diffusers' pipeline."""
_LAYERS = (-2,)
_USUAL_SIZE = 128
_PIPELINE = "ZImagePipeline"


class ZImage(FlowMatched, OwnLoop):
    """Recognised by its pipeline or its transformer."""

    name = "z-image"
    title = "Z-Image-Turbo"
    models = (qwen3.model(_LAYERS), single_stream.MODEL, SHIFTED_VAE)
    components = (qwen3.text_encoder(_LAYERS), single_stream.TRANSFORMER, SHIFTED_DECODER, autoencoder.ENCODER)
    tokenizer_kind = dataclasses.replace(
        tokenizer_kinds.QWEN,
        instruction="<|im_start|>user\n",
        ending="<|im_end|>\n<|im_start|>assistant\n",
    )
    guidances = (
        UNGUIDED,
        dataclasses.replace(SEPARATE, sentence="one call of the transformer per row"),
    )
    default_steps = 9
    default_guidance_scale = 1.0
    loop_kind = EVEN_FLOW
    tag = "z-image"
    guidance_rule = (
        "Guidance was distilled into the transformer, whose prediction is used as it is (for a guidance scale s above "
        "1 it is uncond + s·(text − uncond), which Diffusers calls a scale of s − 1)"
    )

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        stated = str(index.get("_class_name"))
        return (
            stated.startswith("ZImage")
            or configs.get("transformer", {}).get("_class_name") in single_stream.MODEL.classes
        )

    def check_index(self, index: Mapping[str, Any], path: Path) -> None:
        stated = index.get("_class_name")
        if isinstance(stated, str) and stated.startswith("ZImage") and stated != _PIPELINE:
            raise UnsupportedError(
                "the pipeline must be one that draws from texts alone", stated, "Give a checkpoint of Z-Image-Turbo."
            )
        super().check_index(index, path)

    def facts(self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]) -> Facts:
        check_unsized(scheduler_config)
        text, transformer, vae = (configs[model.name] for model in self.models)
        single_stream.check(transformer)
        _check_fit(text, transformer, vae)
        size = _size(transformer)
        return Facts(
            scheduler_config=scheduler_config,
            latent_channels=vae["latent_channels"],
            latent_size=(size, size),
            vae_scale_factor=autoencoder.scale_factor(vae),
            scaling_factor=autoencoder.scaling_factor(vae, notes),
            context_length=TEXT_LENGTH,
            context_dim=text["hidden_size"],
            prediction_type=PREDICTION,
            shift_factor=autoencoder.shift_factor(vae),
            latent_multiple=single_stream.MULTIPLE,
            latent_most=single_stream.PATCH * min(single_stream.setting(transformer, "axes_lens")[1:]),
        )

    def encode(self, token_ids: NDArray[np.int64], run: Run, geometry: Geometry) -> Arrays:
        import numpy as np

        features = run("text_encoder", {"input_ids": token_ids})["hidden_states"]
        tokens = int(np.flatnonzero(token_ids[0] != qwen3.PAD).max(initial=0)) + 1
        moved, mask = single_stream.to_the_end(features, tokens)
        return {"encoder_hidden_states": moved, single_stream.MASK: mask}

    def app_facts(self, facts: Facts) -> dict[str, Any]:
        length, block = facts.context_length, single_stream.BLOCK
        return {
            "conditioning": {
                "encoder_hidden_states": f"of the n rows of hidden_states of text_encoder that input_ids before the "
                f"padding ({qwen3.PAD}) have, moved to begin at row {length} − {block}·⌈n/{block}⌉; zeros in all "
                "other rows",
                single_stream.MASK: "1 in those n rows, 0 in all others",
                "empty_negative_text": "encoded as any other, where a guidance scale above 1 asks for it",
            }
        }


def _check_fit(text: Config, transformer: Config, vae: Config) -> None:
    """Raises CheckpointError unless the models fit each other."""
    latent, inputs = vae.get("latent_channels"), transformer["in_channels"]
    if type(latent) is not int or inputs != latent:
        raise CheckpointError(
            "transformer and VAE must have the same latent channels", f"transformer {inputs}; VAE {latent}"
        )
    if transformer["cap_feat_dim"] != text.get("hidden_size"):
        raise CheckpointError(
            "the transformer must take the text encoder's features",
            f"transformer {transformer['cap_feat_dim']}, text encoder {text.get('hidden_size')}",
        )
    if single_stream.setting(transformer, "axes_lens")[0] <= TEXT_LENGTH + 1:
        raise CheckpointError(
            f"the transformer must have places for {TEXT_LENGTH} tokens of text and a picture behind them",
            f"axes_lens = {single_stream.setting(transformer, 'axes_lens')}",
        )


def _size(transformer: Config) -> int:
    """Returns the latent cells along one side of Diffusers' usual picture, or of the largest that has places."""
    return min(_USUAL_SIZE, single_stream.PATCH * min(single_stream.setting(transformer, "axes_lens")[1:]))
