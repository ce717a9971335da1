"""The UNet of Stable Diffusion XL: sizes of the picture and a pooled text stand beside the timestep.

    t' = MLP(sin, cos of t) + MLP'([sin, cos of each of s, pooled text])        s = (H, W, top, left, H', W'), pixels

s are the size of the original, the corner of the crop and the size of the target. Podell et al., "SDXL", arXiv
2307.01952, section 2.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import unet
from sdmobile.families.clip_pooled import POOLED
from sdmobile.families.component import Config, FileNames, Kind, Shapes, Value
from sdmobile.families.original_names import ADDED_ENDS, Source, unet_sources
from sdmobile.families.shapes import count_blocks

if TYPE_CHECKING:
    from torch import Tensor, nn

ADDED = "addition_embed_type"
TIME_IDS, TEXT_EMBEDS = "time_ids", "text_embeds"
IDS = 6
"""Numbers in s."""
_KIND, _SINUSOID, _INPUT = "text_time", "addition_time_embed_dim", "projection_class_embeddings_input_dim"
_DEPTHS = "transformer_layers_per_block"
_STORED = "add_embedding.linear_1.weight"


def is_xl(config: Config) -> bool:
    """Returns whether a UNet takes sizes and a pooled text."""
    return config.get(ADDED) == _KIND


def pooled_width(config: Config) -> int:
    """Returns the features of the pooled text that a UNet takes.

    Raises:
        UnsupportedError: the other numbers are not those of a size, a corner and a size.
    """
    width, each = config.get(_INPUT), config.get(_SINUSOID)
    if not isinstance(width, int) or not isinstance(each, int) or each < 1 or width <= IDS * each:
        raise CheckpointError(f"{_INPUT} and {_SINUSOID} of the UNet must be whole numbers that fit", (width, each))
    return width - IDS * each


def _derive(shapes: Shapes) -> Config:
    facts = unet.derive(shapes)
    if (stored := shapes.get(_STORED)) and len(stored) == 2:
        facts |= {_INPUT: stored[1]}
    return {**facts, **_depths(shapes)}


def _depths(shapes: Shapes) -> Config:
    """Returns the transformer layers per level, where they are the same way down, in the middle and way up."""
    names = list(shapes)
    levels = count_blocks(names, "down_blocks.")
    down = [_depth(names, f"down_blocks.{level}.") for level in range(levels)]
    up = [_depth(names, f"up_blocks.{levels - 1 - level}.") for level in range(levels)]
    middle = _depth(names, "mid_block.")
    depths = [max(1, depth) for depth in down if depth is not None]
    if len(depths) < len(down) or down != up or middle not in (0, down[-1]) or max(depths, default=1) < 2:
        return {}
    return {_DEPTHS: depths}


def _depth(names: Sequence[str], prefix: str) -> int | None:
    """Returns the layers of each transformer of a block, 0 where it has none, None where they differ."""
    attentions = count_blocks(names, f"{prefix}attentions.")
    counts = {count_blocks(names, f"{prefix}attentions.{number}.transformer_blocks.") for number in range(attentions)}
    return 0 if not counts else counts.pop() if len(counts) == 1 else None


def _check(class_name: str, config: Config) -> None:
    unet.check(class_name, config, taken=(ADDED,))
    if not is_xl(config):
        raise UnsupportedError(
            "the UNet of Stable Diffusion XL must take sizes and a pooled text", f"{ADDED} = {config.get(ADDED)}"
        )


def _sources(shapes: Shapes) -> Mapping[str, Source]:
    return unet_sources(shapes, unet.PREFIX, ADDED_ENDS)


def _base_config(shapes: Shapes, names: Sequence[str]) -> Config:
    return {**unet.MODEL.base_config(shapes, names), ADDED: _KIND, _SINUSOID: 256}


def _wrap(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.wrappers import UNetXL

    return UNetXL(module, channels_last)


def _reference(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    arguments = (inputs[name] for name in unet.INPUTS)
    added = {name: inputs[name] for name in (TIME_IDS, TEXT_EMBEDS)}
    return module(*arguments, added_cond_kwargs=added, return_dict=False)[0]


MODEL = dataclasses.replace(unet.MODEL, derive=_derive, check=_check, sources=_sources, base_config=_base_config)
UNET = dataclasses.replace(
    unet.UNET,
    summary="Denoiser: noisy latents, timestep, text features, sizes and pooled text to a prediction",
    inputs=(
        *unet.UNET.inputs,
        Value(
            TIME_IDS,
            Kind.VECTOR,
            lambda g: (g.batch, IDS),
            "Height and width of the original, top and left of the crop, height and width of the target, in pixels",
        ),
        Value(
            TEXT_EMBEDS,
            Kind.VECTOR,
            lambda g: (g.batch, g.size(POOLED["text_encoder_2"])),
            "Pooled text features of the second encoder, {rows}",
        ),
    ),
    files={
        target: FileNames(names.file, names.signature, (*names.inputs, TIME_IDS, TEXT_EMBEDS), names.outputs)
        for target, names in unet.UNET.files.items()
    },
    wrap=_wrap,
    reference=_reference,
)
