"""FLUX.2 [klein]: Qwen3 as the text encoder, a transformer of two streams and then one, packed latents of 128 channels.

    c = (h₉ | h₁₈ | h₂₇) of Qwen3 for the tokens of a talk whose only message is the text, and for those that fill it up
    σ: 1, 1 − 1/n, …, 1/n, shifted by exp(μ), μ by the tokens of the picture and n

Black Forest Labs, FLUX.2 [klein] (2026), as Diffusers' Flux2KleinPipeline has it. What was distilled takes four steps
without guidance; the base models are guided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import flux2, flux2_autoencoder, qwen3, tokenizer_kinds
from sdmobile.families.component import BATCH2, SEPARATE, UNGUIDED, Config
from sdmobile.families.facts import Facts
from sdmobile.families.flow_matched import FlowMatched
from sdmobile.families.flow_matching import PREDICTION, TOKENS, check_flow
from sdmobile.families.kept_tables import EVEN_FLOW
from sdmobile.families.own_loop import OwnLoop

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.families.component import Arrays, Run
    from sdmobile.formats.bundle.contracts import Geometry

TEXT_LENGTH = 512
"""Tokens of a text: those of Diffusers' pipeline."""
LAYERS = (9, 18, 27)
_PIPELINE = "Flux2KleinPipeline"


class Flux2KleinBase(FlowMatched, OwnLoop):
    """Recognised by its pipeline or its transformer."""

    name = "flux2-klein-base"
    title = "FLUX.2 [klein] Base"
    models = (qwen3.model(LAYERS), flux2.MODEL, flux2_autoencoder.MODEL)
    components = (
        qwen3.text_encoder(LAYERS),
        flux2.TRANSFORMER,
        flux2_autoencoder.DECODER,
        flux2_autoencoder.ENCODER,
    )
    tokenizer_kind = dataclasses.replace(
        tokenizer_kinds.QWEN,
        instruction="<|im_start|>user\n",
        ending="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    )
    guidances = (
        dataclasses.replace(BATCH2, sentence="both guidance rows in one call of the transformer"),
        dataclasses.replace(SEPARATE, sentence="one call of the transformer per row"),
        UNGUIDED,
    )
    default_steps = 50
    default_guidance_scale = 4.0
    loop_kind = EVEN_FLOW
    tag = "flux2"

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        transformer = configs.get(flux2.MODEL.name, {}).get("_class_name")
        return str(index.get("_class_name")).startswith("Flux2") or transformer in flux2.MODEL.classes

    def check_index(self, index: Mapping[str, Any], path: Path) -> None:
        stated = index.get("_class_name")
        if isinstance(stated, str) and stated.startswith("Flux2") and stated != _PIPELINE:
            raise UnsupportedError(
                "the pipeline must be one that draws from texts alone, with Qwen3",
                stated,
                f"Give a checkpoint of FLUX.2 [klein] whose pipeline is {_PIPELINE}.",
            )
        if type(index.get("is_distilled", False)) is not bool:
            raise CheckpointError("is_distilled of the pipeline must be true or false", index["is_distilled"])
        super().check_index(index, path)

    def facts(self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]) -> Facts:
        text, transformer, vae = (configs[model.name] for model in self.models)
        side = flux2_autoencoder.usual_size(vae, notes)
        check_flow(self.schedule_at(scheduler_config, (side, side)))
        flux2.check(transformer)
        width = _check_fit(text, transformer, vae)
        return Facts(
            scheduler_config=scheduler_config,
            latent_channels=transformer["in_channels"],
            latent_size=(side, side),
            vae_scale_factor=flux2_autoencoder.scale_factor(vae),
            scaling_factor=1.0,
            context_length=TEXT_LENGTH,
            context_dim=width,
            prediction_type=PREDICTION,
        )

    def encode(self, token_ids: NDArray[np.int64], run: Run, geometry: Geometry) -> Arrays:
        return {"encoder_hidden_states": run("text_encoder", {"input_ids": token_ids})["hidden_states"]}

    def encode_image(self, image: NDArray[np.float32], run: Run) -> NDArray[np.float32]:
        encoder = flux2_autoencoder.ENCODER
        return run(encoder.name, {encoder.inputs[0].name: image})[encoder.outputs[0].name]

    def schedule_at(self, config: Mapping[str, Any], size: tuple[int, int]) -> Mapping[str, Any]:
        return {**config, TOKENS: size[0] * size[1]}

    def app_facts(self, facts: Facts) -> dict[str, Any]:
        return {
            "conditioning": {
                "encoder_hidden_states": f"hidden_states of text_encoder, all {facts.context_length} rows: those of "
                f"the padding ({qwen3.PAD}) count",
                "empty_negative_text": "encoded as any other, where a guidance scale above 1 asks for it",
            },
            "schedule": "the tables of scheduler.json are those of this size of picture",
        }


class Flux2Klein(Flux2KleinBase):
    """Those whose index says that they were distilled: Diffusers' pipeline leaves a guidance scale out then."""

    name = "flux2-klein"
    title = "FLUX.2 [klein]"
    guidances = (UNGUIDED,)
    default_steps = 4
    default_guidance_scale = 1.0
    guidance_rule = "Guidance was distilled into the transformer, whose prediction is used as it is"

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        return index.get("is_distilled") is True and super().claims(index, configs)


def _check_fit(text: Config, transformer: Config, vae: Config) -> int:
    """Returns the features of a text's token; raises CheckpointError unless the models fit each other."""
    latent, inputs = vae.get("latent_channels"), transformer["in_channels"]
    outputs, cells = transformer.get("out_channels") or inputs, flux2_autoencoder.PACKED**2
    if type(latent) is not int or inputs != cells * latent or outputs != inputs:
        raise CheckpointError(
            f"the transformer must have {cells} times the latent channels of the VAE",
            f"transformer {inputs} in, {outputs} out; VAE {latent}",
        )
    width = text.get("hidden_size")
    if type(width) is not int or transformer["joint_attention_dim"] != len(LAYERS) * width:
        raise CheckpointError(
            f"the transformer must take the text encoder's features of {len(LAYERS)} layers",
            f"transformer {transformer['joint_attention_dim']}, text encoder {width}",
        )
    return len(LAYERS) * width
