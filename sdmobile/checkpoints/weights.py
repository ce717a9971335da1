"""Find and read the weight files of a component, whatever their format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmobile.checkpoints.dialects import name_notes, plain_names, refuse_adapters, with_scales
from sdmobile.checkpoints.headers import TensorInfo, read_header
from sdmobile.checkpoints.hub import origin_of
from sdmobile.checkpoints.jsonfile import read_json
from sdmobile.checkpoints.pickles import read_pickle_header
from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
# File names of a component's weights: stem, variant, format; a shard index has its variant at the end.
_WHOLE = re.compile(r"(diffusion_pytorch_model|model|pytorch_model)(?:\.([\w-]+))?\.(safetensors|bin)")
_INDEX = re.compile(r"(diffusion_pytorch_model|model|pytorch_model)\.(safetensors|bin)\.index(?:\.([\w-]+))?\.json")
_SHARD = re.compile(r".*-\d{5}-of-\d{5}")
# By precision; a variant of another name, such as "non_ema", comes last.
_VARIANTS = ("", "fp32", "fp16", "bf16")
# Names of older Diffusers releases for the VAE's attention.
_RENAMED = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))
# Parts of a full CLIP model that no text encoder uses.
_IGNORED_PREFIXES = ("vision_model.", "visual_projection.", "logit_scale")


@dataclass(frozen=True)
class Weights:
    """Where a component's weights lie.

    Args:
        files: that hold them.
        variant: as Diffusers calls it, such as "fp16"; empty for the plain one.
    """

    files: tuple[Path, ...]
    variant: str = ""


def find_weights(folder: Path) -> Weights:
    """Returns the weight files of a component folder: safetensors first, then by precision.

    Of the Hub's cache, whose files depend on what was asked for before, fp16 is taken first, as it is downloaded.

    Raises:
        CheckpointError: there are none, or a shard is missing.
    """
    best = best_weights((path.name for path in folder.iterdir()), half_first=origin_of(folder) is not None)
    if best is None:
        raise CheckpointError(
            "a component folder must hold weights", f"{folder} has no .safetensors or .bin", "Download it completely."
        )
    name, variant = best
    path = folder / name
    return Weights(_shards(path) if path.suffix == ".json" else (path,), variant)


def best_weights(names: Iterable[str], half_first: bool = False) -> tuple[str, str] | None:
    """Returns the file that holds or lists a component's weights, and its variant; None where there is none.

    Args:
        names: of the files in its folder.
        half_first: take fp16 rather than the plain ones.
    """
    order = ("fp16", *(variant for variant in _VARIANTS if variant != "fp16")) if half_first else _VARIANTS
    places: list[tuple[bool, bool, int, str, str]] = []
    for name in names:
        if match := _INDEX.fullmatch(name):
            extension, variant = match[2], match[3] or ""
        elif (match := _WHOLE.fullmatch(name)) and not _SHARD.fullmatch(name.rpartition(".")[0]):
            extension, variant = match[3], match[2] or ""
        else:
            continue
        rank = order.index(variant) if variant in order else len(order)
        places.append((variant not in order, extension != "safetensors", rank, variant, name))
    return (min(places)[4], min(places)[3]) if places else None


def _shards(index: Path) -> tuple[Path, ...]:
    paths = tuple(index.parent / name for name in shard_names(index))
    for path in paths:
        if path.parent != index.parent or not path.is_file():
            raise CheckpointError("every shard of the index must be present", path, "Download it completely.")
    return paths


def shard_names(index: Path) -> tuple[str, ...]:
    """Returns the names of the shards that an index lists; they are not checked.

    Raises:
        CheckpointError: it is no index, or lists none.
    """
    try:
        names = tuple(sorted({name + "" for name in read_json(index)["weight_map"].values()}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("a shard index must be JSON with a weight_map", f"{index}: {error}") from error
    if not names:
        raise CheckpointError("a shard index must name the shards of the weights", f"{index} names none")
    return names


@dataclass(frozen=True)
class Headers:
    """The tensors of some weight files under plain names, the files' metadata, and notes on what was undone."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    notes: tuple[str, ...]


def read_headers(files: tuple[Path, ...]) -> Headers:
    """Returns names, shapes and types of the tensors in several weight files.

    Raises:
        CheckpointError: a file is damaged, or two tensors have one name.
        UnsupportedError: adapters that were not fused.
    """
    stored: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    notes: list[str] = []
    for path in files:
        if path.suffix.lower() in PICKLE_SUFFIXES:
            tensors, skipped = read_pickle_header(path)
            notes += skipped
        else:
            tensors, stated = read_header(path)
            metadata |= stated
        _require_new(stored, tensors)
        stored |= tensors
    refuse_adapters(stored, files[0])
    names = plain_names(stored)
    plain: dict[str, TensorInfo] = {}
    for name, info in stored.items():
        _require_new(plain, {names[name]: info})
        plain[names[name]] = info
    plain, scaled = with_scales(plain)
    return Headers(plain, metadata, (*notes, *name_notes(stored), *scaled))


def _require_new(known: Mapping[str, TensorInfo], further: Mapping[str, TensorInfo]) -> None:
    for name in known.keys() & further.keys():
        files = {known[name].file.name, further[name].file.name}
        raise CheckpointError("every tensor must be stored once", f"{name} is twice in {' and '.join(sorted(files))}")


def normalise(name: str, unused: tuple[str, ...] = ()) -> str | None:
    """Returns today's name of a stored tensor, None for one that no exported model needs.

    Args:
        name: as it is stored.
        unused: what names begin with that the model has no place for.
    """
    name = name.removeprefix("text_model.")
    if name.endswith("position_ids") or name.startswith((*_IGNORED_PREFIXES, *unused)):
        return None
    if ".attentions." in name:
        for old, new in _RENAMED:
            name = name.replace(old, new)
    return name


def laid_out(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape that a module has for a stored one; the old VAE has matrices as 1×1 convolutions."""
    matrix = ".attentions." in key and ".to_" in key and len(shape) in (3, 4) and set(shape[2:]) == {1}
    return shape[:2] if matrix else shape
