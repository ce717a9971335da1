"""CLIP's text encoders as Stable Diffusion XL takes them: the features before the last layer, and a pooled row.

    c_i = h⁽ᴸ⁻¹⁾_i,  p = P · LN(h⁽ᴸ⁾)_e        L layers, e the first token that ends the text, P a matrix or none

Podell et al., "SDXL", arXiv 2307.01952, section 2.1; the layer and the row are those of Diffusers' and Transformers'
code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError
from sdmobile.families import clip
from sdmobile.families.component import Component, Config, FileNames, Kind, Shapes, Value
from sdmobile.families.original_names import Source, clip_sources, open_clip_sources

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdmobile.families.component import Arrays, Run

FIRST, SECOND = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
WIDTH = {"text_encoder": "text_encoder_width", "text_encoder_2": "text_encoder_2_width"}
"""What the geometry calls the features per token of each."""
POOLED = {"text_encoder": "text_encoder_pooled_width", "text_encoder_2": "text_embeds_width"}
"""What it calls those of the pooled row."""
SECOND_PAD = 0
"""Identifier that fills up the second encoder's text: `!` of CLIP's vocabulary, with which OpenCLIP was trained."""
WORD_TENSORS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
"""What files of learned words call the vectors for each, as trainers write them."""
_PROJECTION = "text_projection.weight"
# Transformers reads this identifier as "the largest in the text", for configurations that were written wrong.
_LARGEST = 2
_COMPARED = "what CLIP compares texts and pictures with"


def with_second_padding(token_ids: Any) -> Any:
    """Returns the identifiers for the second encoder, [1, L], from those of the first, which fills up with the end."""
    ends = token_ids == token_ids[:, -1:]
    return token_ids * ((ends.cumsum(axis=1) - ends) == 0) + SECOND_PAD


def end_token(config: Config) -> int:
    """Returns the identifier of the token whose row is pooled.

    Raises:
        CheckpointError: it is none of the vocabulary.
    """
    rows = int(config["vocab_size"])
    last = min(rows, clip.STANDARD_VOCABULARY) - 1
    stated = config.get("eos_token_id", last)
    if type(stated) is not int or not 0 <= stated < rows:
        rule = f"eos_token_id of a text encoder must be an identifier of its vocabulary, 0 to {rows - 1}"
        raise CheckpointError(rule, stated)
    return last if stated == _LARGEST else stated


def pooled_width(config: Config, projected: bool) -> int:
    """Returns the features of the pooled row."""
    return int(config["projection_dim"] if projected else config["hidden_size"])


def encode(token_ids: Any, run: Run) -> Arrays:
    """Returns what a text gives one row of a denoiser that takes both encoders' features.

    Args:
        token_ids: of the first encoder, [1, L].
        run: computes a text encoder.
    """
    import numpy as np

    first = run("text_encoder", {"input_ids": token_ids})
    second = run("text_encoder_2", {"input_ids": with_second_padding(token_ids)})
    features = np.concatenate([first["hidden_embeds"], second["hidden_embeds"]], axis=-1)
    return {"encoder_hidden_states": features, "text_embeds": second["pooled_outputs"]}


def _build(config: Config) -> nn.Module:
    """Makes the text tower; pooled is the row that ends the text, though learned words have larger identifiers."""
    return clip.MODEL.build({**config, "eos_token_id": end_token(config)})


def _build_projected(config: Config) -> nn.Module:
    """Makes the text tower with its projection, whose names are then those of the other text encoder."""
    from torch import nn

    module: Any = _build(config)
    module.text_projection = nn.Linear(module.config.hidden_size, module.config.projection_dim, bias=False)
    return module


def _derive_projected(shapes: Shapes) -> Config:
    stored = shapes.get(_PROJECTION, ())
    return {**clip.MODEL.derive(shapes), **({"projection_dim": stored[0]} if len(stored) == 2 else {})}


def _sources(shapes: Shapes) -> Mapping[str, Source]:
    return clip_sources(shapes, FIRST)


def _sources_second(shapes: Shapes) -> Mapping[str, Source]:
    return open_clip_sources(shapes, SECOND)


def _spare(names: Sequence[str]) -> Mapping[str, str]:
    beside = (f"{SECOND}logit_scale", f"{SECOND}attn_mask")
    return {name: _COMPARED for name in names if name in beside}


def _base_config_second(shapes: Shapes, names: Sequence[str]) -> Config:
    return {**clip.MODEL.base_config(shapes, names), "hidden_act": "gelu"}


MODEL = dataclasses.replace(clip.MODEL, classes=("CLIPTextModel",), build=_build, prefixes=(FIRST,), sources=_sources)
MODEL_2 = dataclasses.replace(
    clip.MODEL,
    name="text_encoder_2",
    classes=("CLIPTextModelWithProjection",),
    build=_build_projected,
    derive=_derive_projected,
    prefixes=(SECOND,),
    sources=_sources_second,
    base_config=_base_config_second,
    spare=_spare,
    unused=(),
)


def _wrap(module: Any, channels_last: bool) -> nn.Module:
    from sdmobile.families.wrappers import PooledTextEncoder

    return PooledTextEncoder(module, channels_last, end_token(module.config.to_dict()))


def _reference(module: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    output = module(input_ids=inputs["input_ids"], output_hidden_states=True)
    pooled = output.pooler_output
    return output.hidden_states[-2], module.text_projection(pooled) if hasattr(module, "text_projection") else pooled


def _encoder(name: str, title: str, files: Mapping[str, str]) -> Component:
    outputs = ("hidden_embeds", "pooled_outputs")  # as Apple's TextEncoderXL looks them up, in both
    return dataclasses.replace(
        clip.TEXT_ENCODER,
        name=name,
        model=name,
        summary=f"{title}: token ids to text features and a pooled row",
        outputs=(
            Value(
                outputs[0],
                Kind.FEATURES,
                lambda g: (1, g.context_length, g.size(WIDTH[name])),
                "Text features before the last layer, one row per token",
            ),
            Value(
                outputs[1],
                Kind.VECTOR,
                lambda g: (1, g.size(POOLED[name])),
                "Features of the token that ends the text",
            ),
        ),
        files={
            target: FileNames(files[target], names.signature, names.inputs, outputs)
            for target, names in clip.TEXT_ENCODER.files.items()
        },
        wrap=_wrap,
        reference=_reference,
    )


TEXT_ENCODER = _encoder(
    "text_encoder",
    "First text encoder",
    {"ios": "TextEncoder.mlpackage", "android": "text_encoder.tflite", "onnx": "text_encoder.onnx"},
)
TEXT_ENCODER_2 = _encoder(
    "text_encoder_2",
    "Second text encoder",
    {"ios": "TextEncoder2.mlpackage", "android": "text_encoder_2.tflite", "onnx": "text_encoder_2.onnx"},
)
