"""Recognise a single .safetensors or .ckpt file in the original layout of Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.checkpoints.assemble import Parts, assemble, component_info
from sdmobile.checkpoints.facts import shapes_of
from sdmobile.checkpoints.headers import TensorInfo, read_header
from sdmobile.checkpoints.jsonfile import read_json
from sdmobile.checkpoints.pickles import read_pickle_header
from sdmobile.checkpoints.weights import PICKLE_SUFFIXES, normalise
from sdmobile.errors import UnsupportedError
from sdmobile.families import FAMILIES

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.checkpoints.types import Checkpoint, ComponentInfo
    from sdmobile.families.family import Model

Tensors = dict[str, TensorInfo]


def open_single_file(path: Path, tokenizer_dir: Path | None = None) -> Checkpoint:
    """Recognises a single file; what it lacks may lie next to it.

    `tokenizer/` next to the file is used as its tokenizer, `scheduler/scheduler_config.json` as its noise schedule.

    Raises:
        CheckpointError: truncated, corrupt, or one of the three models is missing.
        UnsupportedError: another architecture, named.
    """
    tensors, metadata = _read(path)
    names = list(tensors)
    family = next(family for family in FAMILIES if family.claims_file(names))
    family.check_file(names, path)
    notes: list[str] = []
    if sum(name.startswith("model_ema.") for name in tensors) > 100:
        notes.append("unet: the file has a second, averaged (EMA) copy of the weights; the plain one is used")
    components: dict[str, ComponentInfo] = {}
    for model in family.models:
        info, corrections = _component(path, model, tensors)
        components[model.name] = info
        notes += corrections
    configs = {name: info.config for name, info in components.items()}
    size = family.file_latent_size(metadata, configs, names, notes)
    configs[family.denoiser.model]["sample_size"] = size
    scheduler_file = path.parent / "scheduler" / "scheduler_config.json"
    beside = scheduler_file.is_file()
    tokenizer_dir = tokenizer_dir or _tokenizer_beside(path)
    if tokenizer_dir is None:
        notes.append("tokenizer: a single file has none; put a folder `tokenizer` beside it")
    parts = Parts(
        family=family,
        path=path,
        name=path.stem,
        format="single_file",
        components=components,
        tokenizer_dir=tokenizer_dir,
        scheduler_config=read_json(scheduler_file) if beside else family.file_scheduler(metadata, names, notes),
        license=metadata.get("modelspec.license"),
        notes=notes,
        hashed_files=(path, scheduler_file) if beside else (path,),
    )
    return assemble(parts)


def _read(path: Path) -> tuple[Tensors, dict[str, str]]:
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return read_pickle_header(path), {}
    return read_header(path)


def _component(path: Path, model: Model, tensors: Tensors) -> tuple[ComponentInfo, list[str]]:
    import torch

    stored = {name: info for name, info in tensors.items() if name.startswith(model.prefixes) and info.is_float}
    empty = {
        name: torch.empty(info.shape, dtype=getattr(torch, info.dtype), device="meta") for name, info in stored.items()
    }
    try:
        renamed = model.convert(empty)
    except (KeyError, IndexError, ValueError, AttributeError, ZeroDivisionError) as error:
        value = f"{path}: {model.name}: {type(error).__name__} {error}"
        raise UnsupportedError("the tensor names must be those of the original layout", value) from error
    weights: Tensors = {}
    for name, value in renamed.items():
        if (key := normalise(name)) is not None:
            weights[key] = TensorInfo(tuple(value.shape), str(value.dtype).removeprefix("torch."), path)
    config = model.base_config(shapes_of(weights), list(tensors))
    return component_info(model, path, model.classes[0], config, weights, (path,))


def _tokenizer_beside(path: Path) -> Path | None:
    folder = path.parent / "tokenizer"
    return folder if (folder / "vocab.json").is_file() else None
