"""The original layout of Stable Diffusion's single files: which stored tensor each weight of a module comes from.

    UNet         input_blocks.I.S.…   middle_block.I.…   output_blocks.I.S.…       levels of L blocks and a resampling
    autoencoder  encoder.down.I.…     encoder.mid.…      decoder.up.I.…            the way up is counted from its end
    CLIP         text_model.…                                                      Transformers' own names
    OpenCLIP     transformer.resblocks.I.…               attn.in_proj: queries, keys and values, one above the other

The layout is that of CompVis/stable-diffusion (ldm/modules) and of mlfoundations/open_clip; the modules are Diffusers'
and Transformers'. What a layout does not know keeps its name, so that a module which does not know it either says so;
what is left out of a map belongs to no weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmobile.families.shapes import count_blocks

if TYPE_CHECKING:
    from sdmobile.families.component import Shapes


@dataclass(frozen=True)
class Source:
    """Where a module's weight lies in a file.

    Args:
        name: of the stored tensor.
        rows: of it, first and one past the last; None for all.
        transposed: whether the axes are stored the other way round.
    """

    name: str
    rows: tuple[int, int] | None = None
    transposed: bool = False


Sources = Mapping[str, Source]
"""By the name in the module."""

_VALUES = ("weight", "bias")
_UPSAMPLING = r"output_blocks\.\d+\.[12]\.conv|decoder\.up\.\d+\.upsample\.conv"
_DOWNSAMPLING = r"input_blocks\.\d+\.0\.op|encoder\.down\.\d+\.downsample\.conv"
_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
ADDED_ENDS = {"label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2"}
"""Of a UNet that takes a pooled text and numbers beside the timestep."""
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_ATTENTION = {
    **{"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"},
    # Names of earlier releases of Diffusers that a converter left there.
    **{"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"},
}
_OPEN_CLIP_ENDS = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn": "self_attn",
}


def unet_sources(names: Iterable[str], prefix: str, ends: Mapping[str, str] | None = None) -> dict[str, Source]:
    """Returns the sources of a UNet's weights.

    Args:
        names: stored under the prefix.
        prefix: before all names of the UNet.
        ends: further layers beside the blocks, all of which it must have, with their names in the module.

    Raises:
        KeyError: a tensor that must be there is missing.
        ValueError: an index of thousands of digits.
    """
    own = [name.removeprefix(prefix) for name in names]
    known = set(own)
    for layer in ends or {}:
        _require(known, layer)
    downs = [int(match[1]) for name in own if (match := re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", name))]
    layers = min([down for down in downs if down > 0] or [count_blocks(own, "input_blocks.")]) - 1
    if layers < 0:
        raise KeyError("input_blocks.0.0.weight")
    counts = {way: _distinct(own, way) for way in ("input_blocks", "middle_block", "output_blocks")}
    table = {**_UNET_ENDS, **(ends or {})}
    counted = (name for name in _whole(own) if _is_counted(name, counts))
    places = ((name, _end(name, table) or _unet_place(name, layers)) for name in counted)
    return {place: Source(prefix + name) for name, place in places if place is not None}


def _whole(names: list[str]) -> list[str]:
    """Returns the names without resamplings that have no weight; raises KeyError for an upsampling without bias."""
    known = set(names)
    for name in names:
        if re.fullmatch(_UPSAMPLING, name.removesuffix(".weight")):
            _require(known, name.removesuffix(".weight"))
    loose = {name for name in names if re.fullmatch(f"{_UPSAMPLING}|{_DOWNSAMPLING}", name.removesuffix(".bias"))}
    return [name for name in names if name not in loose or name.removesuffix("bias") + "weight" in known]


def _require(known: set[str], layer: str) -> None:
    for value in _VALUES:
        if f"{layer}.{value}" not in known:
            raise KeyError(f"{layer}.{value}")


def underscored_module(name: str, layers: int) -> str:
    """Returns the name of a UNet's module by that of its layer in the original layout, both with underscores for dots.

    Args:
        name: such as `input_blocks_1_1_proj_in`; any other is returned as it is.
        layers: blocks of each level.
    """
    ends = {old.replace(".", "_"): new for old, new in {**_UNET_ENDS, **ADDED_ENDS}.items()}
    if name in ends:
        return ends[name].replace(".", "_")
    match = re.fullmatch(r"(middle_block_\d{1,3}|(?:in|out)put_blocks_\d{1,3}_\d)_(.+)", name)
    if match is None:
        return name
    layer = next((old for old in _RESNET if old.replace(".", "_") == match[2]), match[2])
    block = re.sub(r"_(?=\d)", ".", match[1])
    place = _unet_place(f"{block}.{layer}.weight", layers)
    return name if place is None else place.removesuffix(".weight").replace(".", "_")


def _is_counted(name: str, counts: Mapping[str, int]) -> bool:
    """Whether a tensor lies in none of the blocks, or in one of as many as there are."""
    way, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return way not in counts or (number.isdecimal() and int(number) < counts[way])


def _distinct(names: Iterable[str], way: str) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(f"{way}.")})


def _end(name: str, table: Mapping[str, str]) -> str | None:
    """Returns the place of a layer's weight or bias by a table of layers."""
    layer, _, value = name.rpartition(".")
    return f"{table[layer]}.{value}" if layer in table and value in _VALUES else None


def _unet_place(name: str, layers: int) -> str | None:
    match = re.fullmatch(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(.+)", name)
    if match is None:
        return None
    way, block, rest = match[1], int(match[2]), match[3]
    if way == "middle_block":
        return f"mid_block.{'attentions' if block % 2 else 'resnets'}.{max(block - 1, 0)}.{_layer(rest, _RESNET)}"
    slot, _, rest = rest.partition(".")
    if way == "input_blocks":
        level, item = divmod(block - 1, layers + 1)
        return None if block == 0 else _in_level(f"down_blocks.{level}", item, slot, rest)
    level, item = divmod(block, layers + 1)
    return _in_level(f"up_blocks.{level}", item, slot, rest)


def _in_level(level: str, item: int, slot: str, rest: str) -> str | None:
    """Returns a place in a level: its block's first slot has a resnet or a downsampling, the later the others."""
    down = level.startswith("down")
    kind, first = ("downsamplers", "op") if down else ("upsamplers", "conv")
    resamples = rest.startswith("op") if slot == "0" else not down and slot in ("1", "2") and rest.startswith("conv")
    if resamples:
        layer, _, value = rest.partition(".")
        return f"{level}.{kind}.0.conv.{value}" if layer == first and value in _VALUES else None
    if slot == "0":
        return f"{level}.resnets.{item}.{_layer(rest, _RESNET)}"
    return f"{level}.attentions.{item}.{rest}" if slot == "1" else None


def _layer(rest: str, table: Mapping[str, str]) -> str:
    """Returns a name whose beginning is in a table by its new name, any other as it is."""
    old = next((old for old in table if rest.startswith(f"{old}.")), None)
    return rest if old is None else table[old] + rest.removeprefix(old)


def autoencoder_sources(names: Iterable[str], prefix: str) -> dict[str, Source]:
    """Returns the sources of an autoencoder's weights; its attention may be stored as 1×1 convolutions.

    Args:
        names: stored under the prefix.
        prefix: before all names of the autoencoder.

    Raises:
        KeyError: a tensor that must be there is missing.
    """
    own = [name.removeprefix(prefix) for name in names]
    levels = count_blocks(own, "encoder.down.")
    places = ((name, _vae_place(name, levels)) for name in _whole(own))
    return {place: Source(prefix + name) for name, place in places if place is not None}


def _vae_place(name: str, levels: int) -> str | None:
    if (end := _end(name, _VAE_ENDS)) is not None:
        return end
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.(block_[12]|attn_1)\.(.+)", name):
        side, part, rest = match.groups()
        if part == "attn_1":
            return f"{side}.mid_block.attentions.0.{_end(rest, _VAE_ATTENTION) or rest}"
        return f"{side}.mid_block.resnets.{int(part[-1]) - 1}.{_shortcut(rest)}"
    match = re.fullmatch(r"(encoder\.down|decoder\.up)\.(\d+)\.(.+)", name)
    if match is None or int(match[2]) >= levels:
        return name if re.match(r"(encoder|decoder)\.mid\.attn", name) else None
    way, number, rest = match.groups()
    down = way == "encoder.down"
    level = f"{way}_blocks.{int(number) if down else levels - 1 - int(number)}"
    if rest.startswith("block."):
        return f"{level}.resnets.{_shortcut(rest.removeprefix('block.'))}"
    resampling = "downsample" if down else "upsample"
    if rest.startswith(resampling):
        return _end(rest, {f"{resampling}.conv": f"{level}.{resampling}rs.0.conv"})
    return name


def _shortcut(rest: str) -> str:
    return rest.replace("nin_shortcut", "conv_shortcut")


_VAE_ENDS = {
    **{f"{side}.{layer}": f"{side}.{layer}" for side in ("encoder", "decoder") for layer in ("conv_in", "conv_out")},
    **{f"{side}.norm_out": f"{side}.conv_norm_out" for side in ("encoder", "decoder")},
    **{layer: layer for layer in ("quant_conv", "post_quant_conv")},
}


def clip_sources(names: Iterable[str], prefix: str) -> dict[str, Source]:
    """Returns the sources of the weights of CLIP's text encoder, whose names are those of its module."""
    return {name.removeprefix(prefix): Source(name) for name in names if name.startswith(prefix)}


def open_clip_sources(shapes: Shapes, prefix: str) -> dict[str, Source]:
    """Returns the sources of the weights of OpenCLIP's text encoder.

    Its projection is stored as [features, output], to be multiplied from the right.

    Args:
        shapes: of the tensors under the prefix.
        prefix: before all names of the encoder.

    Raises:
        KeyError, IndexError: it has no token embedding, or one without axes.
    """
    projection = f"{prefix}text_projection"
    width = shapes[f"{prefix}token_embedding.weight"][-1]
    width = shapes[projection][0] if projection in shapes else width
    found: dict[str, Source] = {}
    for name in shapes:
        own = name.removeprefix(prefix)
        if name == projection:
            found["text_projection.weight"] = Source(name, transposed=True)
        elif own in _OPEN_CLIP_ENDS:
            found[_OPEN_CLIP_ENDS[own]] = Source(name)
        elif own.startswith("transformer."):
            found |= _open_clip_layer(name, own.removeprefix("transformer."), width, shapes[name])
    return found


def _open_clip_layer(name: str, own: str, width: int, shape: tuple[int, ...]) -> dict[str, Source]:
    match = re.fullmatch(r"resblocks\.(\d+)\.(.+)", own)
    if match is None:
        return {own: Source(name)}
    place = f"encoder.layers.{match[1]}."
    joined = re.fullmatch(r"attn\.in_proj_(weight|bias)", match[2])
    if joined is None:
        return {place + _layer(match[2], _OPEN_CLIP_LAYER): Source(name)}
    rows = {"q": (0, width), "k": (width, 2 * width), "v": (2 * width, shape[0])}
    return {f"{place}self_attn.{part}_proj.{joined[1]}": Source(name, span) for part, span in rows.items()}
