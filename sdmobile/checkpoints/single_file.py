"""Recognise a single .safetensors or .ckpt file in the original layout of Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.assemble import Parts, assemble, component_info
from sdmobile.checkpoints.facts import shapes_of
from sdmobile.checkpoints.headers import check_readable
from sdmobile.checkpoints.hub import origin_of
from sdmobile.checkpoints.jsonfile import read_json
from sdmobile.checkpoints.weights import Headers, laid_out, normalise, read_headers
from sdmobile.errors import UnsupportedError
from sdmobile.families import FAMILIES
from sdmobile.families.few_steps import completed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sdmobile.checkpoints.headers import TensorInfo
    from sdmobile.checkpoints.types import Checkpoint, ComponentInfo, Given
    from sdmobile.families.component import Model
    from sdmobile.families.family import Family
    from sdmobile.families.original_names import Source

Tensors = dict[str, "TensorInfo"]
_RULE = "the tensor names must be those of the original layout"
_SHOWN = 5
_EMA = "model_ema."
_TITLES = ("modelspec.title", "ss_output_name")
"""What the metadata of a file calls it."""
_MOST_YAML = 1_000_000
# What the training configuration beside a file says, as the original code wrote it.
_YAML = {
    "prediction_type": r"^\s*parameterization:\s*[\"']?(eps|v|x0)\b",
    "beta_start": r"^\s*linear_start:\s*([\d.eE-]+)\s*$",
    "beta_end": r"^\s*linear_end:\s*([\d.eE-]+)\s*$",
    "num_train_timesteps": r"^\s*timesteps:\s*(\d+)\s*$",
}
_PARAMETERIZATIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def open_single_file(path: Path, given: Given) -> Checkpoint:
    """Recognises a single file; what it lacks may lie next to it.

    `tokenizer/` next to the file is used as its tokenizer, `scheduler/scheduler_config.json` as its noise schedule, and
    a `.yaml` of the same name for what the UNet predicts.

    Raises:
        CheckpointError: truncated, corrupt, or one of the three models is missing.
        UnsupportedError: another architecture, named; or a tensor under a model's prefix that the model does not use.
    """
    headers = read_headers((path,))
    tensors, names = headers.tensors, list(headers.tensors)
    family = next(family for family in FAMILIES if family.claims_file(shapes_of(tensors)))
    family.check_file(names, path)
    notes = [f"the file: {note}" for note in headers.notes]
    if sum(name.startswith(_EMA) for name in tensors) > 100:
        notes.append("unet: the file has a second, averaged (EMA) copy of the weights; the plain one is used")
    components: dict[str, ComponentInfo] = {}
    used: set[str] = set()
    for model in family.models:
        info, corrections, sources = read_part(path, model, tensors)
        components[model.name] = info
        notes += corrections
        used |= sources
    notes += unused_tensors(path, family.models, names, used)
    notes += _vaes_beside(path, given.vae)
    configs = {name: info.config for name, info in components.items()}
    size = family.file_latent_size(headers.metadata, configs, names, notes)
    configs[family.denoiser.model]["sample_size"] = list(size)
    origin = origin_of(path)
    called = (path.stem, *((origin.name,) if origin else ()), *filter(None, map(headers.metadata.get, _TITLES)))
    config, files = _schedule(path, family, headers, given, called, notes)
    parts = Parts(
        family=family,
        path=path,
        name=origin.name if origin else path.stem,
        format="single_file",
        components=components,
        scheduler_config=config,
        license=headers.metadata.get("modelspec.license"),
        notes=notes,
        hashed_files=(path, *files),
        given=given,
        called=called,
        own_tokenizer=path.parent / "tokenizer",
    )
    return assemble(parts)


def _schedule(
    path: Path, family: Family, headers: Headers, given: Given, called: tuple[str, ...], notes: list[str]
) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Returns the noise schedule of a single file, and the files beside it that it was read from."""
    beside = path.parent / "scheduler" / "scheduler_config.json"
    if beside.is_file():
        return read_json(beside), (beside,)
    stated = path.with_suffix(".yaml")
    said: dict[str, Any] = {} if not stated.is_file() else _read_yaml(stated)
    distilled = completed(given.distilled, called, {}, None)
    if (prediction := given.prediction_type or (distilled and distilled.prediction_type)) is not None:
        said["prediction_type"] = prediction
    schedule = family.file_scheduler(headers.metadata, list(headers.tensors), said, notes)
    return schedule, (stated,) if stated.is_file() else ()


def _read_yaml(path: Path) -> dict[str, Any]:
    """Returns what a training configuration says of the noise schedule, in Diffusers' keys."""
    check_readable(path, _MOST_YAML)
    text = path.read_text(encoding="utf-8", errors="replace")
    found = {key: match[1] for key, pattern in _YAML.items() if (match := re.search(pattern, text, re.MULTILINE))}
    said: dict[str, Any] = {}
    for key, value in found.items():
        try:
            said[key] = {"prediction_type": _PARAMETERIZATIONS.get, "num_train_timesteps": int}.get(key, float)(value)
        except ValueError:
            continue  # not a number: the usual one is used, as if nothing was said
    return said


def read_part(path: Path, model: Model, tensors: Tensors) -> tuple[ComponentInfo, list[str], set[str]]:
    """Reads what one model of a file in the original layout is.

    Args:
        path: the file.
        model: of the family.
        tensors: of the file, by their names in the layout.

    Returns:
        The model, corrections of its configuration, and the names of the tensors that it uses.

    Raises:
        CheckpointError: the file holds no weights of it.
        UnsupportedError: names that are not those of the layout.
    """
    stored = {name: info for name, info in tensors.items() if name.startswith(model.prefixes)}
    try:
        found = {name: _taken(stored, source) for name, source in model.sources(shapes_of(stored)).items()}
    except (LookupError, ValueError) as error:
        value = f"{path}: {model.name}: {type(error).__name__} {error}"
        raise UnsupportedError(_RULE, value) from error
    weights: Tensors = {}
    used: set[str] = set()
    for name, (source, one) in found.items():
        if not one.elements:
            continue
        used.add(source)
        if (key := normalise(name, model.unused)) is not None:
            weights[key] = replace(one, shape=laid_out(key, one.shape))
    config = model.base_config(shapes_of(weights), list(tensors))
    info, notes = component_info(model, path, model.classes[0], config, weights, (path,))
    return info, notes, used


def _taken(stored: Tensors, source: Source) -> tuple[str, TensorInfo]:
    """Returns the name of the tensor that a weight comes from, and what of it the weight is."""
    info = stored[source.name]
    if source.rows is not None:
        info = info.rows(*source.rows)
    if source.transposed:
        info = replace(info, shape=info.shape[::-1], transposed=True)
    return source.name, info


def unused_tensors(path: Path, models: Sequence[Model], stored: list[str], used: set[str]) -> list[str]:
    """Returns notes that account for the stored tensors that no model uses.

    Args:
        path: of the file.
        models: that were read from it.
        stored: names of all tensors.
        used: those that a model uses.

    Raises:
        UnsupportedError: some lie under a model's prefix without being known to be spare.
    """
    notes: list[str] = []
    left = [name for name in stored if name not in used and not name.startswith(_EMA)]
    for model in models:
        mine = [name for name in left if name.startswith(model.prefixes)]
        spare = model.spare(stored)
        unknown = [name for name in mine if name not in spare and not name.endswith("position_ids")]
        if unknown:
            raise UnsupportedError(
                f"{model.name} must have no weights that its architecture does not use",
                f"{path}: {_listed(unknown)}",
                "A model with further parts would not be the same without them.",
            )
        for reason, count in Counter(spare[name] for name in mine if name in spare).items():
            notes.append(f"{model.name}: {count} tensors are not used: {reason}")
    others = [name for name in left if not name.startswith(tuple(p for m in models for p in m.prefixes))]
    if others:
        notes.append(f"the file: {len(others)} tensors belong to none of the models: {_listed(others)}")
    return notes


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more


def _vaes_beside(path: Path, taken: Path | None) -> list[str]:
    """Returns a note on autoencoders that lie beside a single file, as some programs would take them by themselves."""
    if taken is not None:
        return []
    suffixes = (".safetensors", ".pt", ".ckpt")
    found = sorted(
        file.name
        for file in path.parent.iterdir()
        if file != path and "vae" in file.stem.lower() and file.suffix.lower() in suffixes and file.is_file()
    )
    own = [name for name in found if name.lower().startswith(f"{path.stem.lower()}.vae.")]
    shown = (own or found)[:3]
    if not shown:
        return []
    return [f"vae: {', '.join(shown)} beside the file is not used; --vae {shown[0]} takes it"]
