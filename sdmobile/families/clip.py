"""CLIP's text encoder, OpenCLIP's included: Radford et al., arXiv 2103.00020."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError, UsageError
from sdmobile.families.component import Component, Config, FileNames, Kind, Model, Role, Shapes, Value
from sdmobile.families.original_names import Source, clip_sources, open_clip_sources
from sdmobile.families.shapes import count_blocks

if TYPE_CHECKING:
    from torch import Tensor, nn

CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
OPEN_CLIP_BLOCKS = 24
_BESIDE = (".logit_scale", ".attn_mask", ".text_projection")
_LAST_BLOCK = "the last block: Stable Diffusion 2.x conditions on the one before"
_PROJECTION = "what CLIP compares texts and pictures with"
# Implementations of attention that compute the same and that Transformers has built in.
_ATTENTIONS = (None, "eager", "sdpa")
_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
# Both CLIP and OpenCLIP text towers have 64 channels per head.
HEAD_CHANNELS = 64
TOKEN_ROWS = "embeddings.token_embedding.weight"
"""The weight whose rows are the tokens' vectors."""
TOKENIZER_FILES = ("vocab.json", "merges.txt")
STANDARD_VOCABULARY = 49408
"""Identifiers of the vocabulary that CLIP and OpenCLIP were published with."""
STANDARD_TOKENS = {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
# Repositories on the Hugging Face Hub that hold it, and the folder within.
STANDARD_SOURCES = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"),
    ("runwayml/stable-diffusion-v1-5", "tokenizer"),
    ("CompVis/stable-diffusion-v1-4", "tokenizer"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer"),
    ("stabilityai/stable-diffusion-2-1-base", "tokenizer"),
)
WHERE_TO_FIND = (
    "For Stable Diffusion 1.x it is the one of openai/clip-vit-large-patch14, for 2.x the folder `tokenizer` of "
    "stabilityai/stable-diffusion-2-1"
)


def is_open_clip(names: Sequence[str]) -> bool:
    """Returns whether the text encoder of a single file is OpenCLIP's, as in Stable Diffusion 2.x."""
    return any(name.startswith(OPEN_CLIP) for name in names)


def pad_token(config: Config) -> str | None:
    """Returns what fills up a text: OpenCLIP, whose towers have gelu, was trained with identifier 0, which is `!`."""
    return "!" if config.get("hidden_act") == "gelu" else None


def without_last_layers(config: Config, layers: int) -> tuple[Config, tuple[str, ...]]:
    """Returns the configuration of a text encoder cut short, and what the names of the left out weights begin with.

    Its final norm comes after the last layer that is kept, as in Diffusers' `clip_skip`.

    Args:
        config: of the whole one.
        layers: how many are left out at the end.

    Raises:
        UsageError: so many are not there; one at least is kept.
    """
    total = int(config["num_hidden_layers"])
    if not 1 <= layers < total:
        raise UsageError(f"--clip-skip is at least 1 and less than the text encoder's {total} layers", layers)
    prefixes = tuple(f"encoder.layers.{index}." for index in range(total - layers, total))
    return {**config, "num_hidden_layers": total - layers}, prefixes


def _build(config: Config) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    settings = {key: value for key, value in config.items() if key not in _ATTENTION_KEYS}
    return CLIPTextModel(CLIPTextConfig.from_dict(settings))


def _check(class_name: str, config: Config) -> None:
    """Refuses an attention that Transformers would fetch code for, and sizes that no text encoder has."""
    for key in _ATTENTION_KEYS:
        if config.get(key) not in _ATTENTIONS:
            raise UnsupportedError(
                f"{key} of the text encoder must be eager or sdpa: nothing is fetched", config[key], f"Take {key} out"
            )


def _derive(shapes: Shapes) -> Config:
    facts: Config = {}
    if (token := shapes.get(TOKEN_ROWS)) and len(token) == 2:
        facts |= {"vocab_size": token[0], "hidden_size": token[1]}
    if (position := shapes.get("embeddings.position_embedding.weight")) and len(position) == 2:
        facts["max_position_embeddings"] = position[0]
    if layers := count_blocks(shapes, "encoder.layers."):
        facts["num_hidden_layers"] = layers
    if (inner := shapes.get("encoder.layers.0.mlp.fc1.weight")) and len(inner) == 2:
        facts["intermediate_size"] = inner[0]
    return facts


def _sources(shapes: Shapes) -> Mapping[str, Source]:
    names = list(shapes)
    if not is_open_clip(names):
        return clip_sources(names, CLIP)
    spare = _spare(names)
    # Of the published encoder's last block nothing is used, though there be more.
    last = f"{OPEN_CLIP}transformer.resblocks.{OPEN_CLIP_BLOCKS - 1}."
    own = (name for name in names if name.startswith(OPEN_CLIP) and name not in spare and not name.startswith(last))
    return open_clip_sources({name: shapes[name] for name in own}, OPEN_CLIP)


def _spare(names: Sequence[str]) -> Mapping[str, str]:
    """Returns what is stored of CLIP beside the text encoder.

    Stable Diffusion 2.x conditions on the last but one of OpenCLIP's 24 blocks, so the last one is no part of the
    model. Files that went through Diffusers have lost it already, and the projection with it.
    """
    spare = {name: _PROJECTION for name in names if name.startswith(OPEN_CLIP) and name.endswith(_BESIDE)}
    blocks = count_blocks(names, OPEN_CLIP + "transformer.resblocks.")
    whole = blocks == OPEN_CLIP_BLOCKS or (blocks != OPEN_CLIP_BLOCKS - 1 and bool(spare))
    last = f"{OPEN_CLIP}transformer.resblocks.{blocks - 1}."
    if whole:
        spare |= {name: _LAST_BLOCK for name in names if name.startswith(last)}
    towers = tuple(CLIP + part for part in ("vision_model.", "visual_projection.", "text_projection.", "logit_scale"))
    return spare | {name: _PROJECTION for name in names if name.startswith(towers)}


def _base_config(shapes: Shapes, names: Sequence[str]) -> Config:
    rows, width = shapes.get(TOKEN_ROWS, (STANDARD_VOCABULARY, 0))
    heads = max(1, width // HEAD_CHANNELS)
    activation = "gelu" if is_open_clip(names) else "quick_gelu"
    end = min(rows, STANDARD_VOCABULARY) - 1  # learned words come after it
    tokens = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": 1}
    return {"num_attention_heads": heads, "hidden_act": activation, "projection_dim": width, **tokens}


MODEL = Model(
    name="text_encoder",
    classes=("CLIPTextModel", "CLIPTextModelWithProjection"),
    build=_build,
    derive=_derive,
    check=_check,
    prefixes=(CLIP, OPEN_CLIP),
    sources=_sources,
    base_config=_base_config,
    spare=_spare,
    unused=("text_projection.",),
)


def _wrap(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.wrappers import TextEncoder

    return TextEncoder(module, channels_last)


def _reference(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    return module(input_ids=inputs["input_ids"]).last_hidden_state


TEXT_ENCODER = Component(
    name="text_encoder",
    role=Role.TEXT_ENCODER,
    model=MODEL.name,
    summary="Text encoder: token ids to text features",
    inputs=(
        Value(
            "input_ids",
            Kind.TOKEN_IDS,
            lambda g: (1, g.context_length),
            "Token ids, padded to the context length",
        ),
    ),
    outputs=(
        Value(
            "last_hidden_state",
            Kind.FEATURES,
            lambda g: (1, g.context_length, g.context_dim),
            "Text features, one row per token",
        ),
    ),
    files={
        # Those of ios are what Apple's StableDiffusion Swift package looks up; those of onnx are the canonical ones.
        "ios": FileNames("TextEncoder.mlpackage", "main", ("input_ids",), ("last_hidden_state",)),
        "android": FileNames("text_encoder.tflite", "encode", ("tokens",), ("last_hidden_state",)),
        "onnx": FileNames("text_encoder.onnx", "main", ("input_ids",), ("last_hidden_state",)),
    },
    wrap=_wrap,
    reference=_reference,
)
